// Two processes with 0/1 Adam: the variance is frozen after 4 steps; then two steps with a sync
// each, two with one in two, and one sync in four.
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/ctrain.hpp>

#include "tiny.hpp"

struct TinyZeroOne {
  static constexpr ctrain::Policy policy{.model = tiny_model,
                                         .batch = {.packed_tokens = 256, .length = 64},
                                         .optimizer = {.kind = ctrain::OptimizerKind::zero_one_adam,
                                                       .learning_rate = 1e-3f,
                                                       .compression = {.freeze_step = 4,
                                                                       .variance_scaler = 2,
                                                                       .local_step_scaler = 2,
                                                                       .local_step_limit = 4}},
                                         .parallel = {.data = 2, .deadline = 10},
                                         .zero = {.bucket = 64 * ctrain::KiB},
                                         .device = ctrain::host_memory(64 * ctrain::MiB, 2)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<TinyZeroOne, ctrain::Cpu, ctrain::Mpi>(argc, argv);
}
