// The main job with 1-bit Adam on two processes: after 80 steps of Adam they send each other one
// bit an element, a thirty-second of the bytes. Start it with: mpirun -n 2
// finetune_one_bit_adam_mpi FLAGS
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/ctrain.hpp>

struct AfqmcOneBitAdam {
  static constexpr ctrain::Policy policy{.model = ctrain::megatron_bert_mini,
                                         .batch = {.packed_tokens = 1024},
                                         .optimizer = {.kind = ctrain::OptimizerKind::one_bit_adam,
                                                       .learning_rate = 5e-4f,
                                                       .weight_decay = 0.1f,
                                                       .compression = {.freeze_step = 80}},
                                         .schedule = {.warmup = 0.1f},
                                         .parallel = {.data = 2},
                                         .device = ctrain::host_memory(2 * ctrain::GiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcOneBitAdam, ctrain::Cpu, ctrain::Mpi>(argc, argv);
}
