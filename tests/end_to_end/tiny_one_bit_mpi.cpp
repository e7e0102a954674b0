// 1-bit LAMB, its variance frozen after three steps of four micro-batches, on as many processes as
// the launcher says: 1, 2 or 4.
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/ctrain.hpp>

#include <cstdlib>
#include <string>

#include "tiny.hpp"

template <int Ranks> struct TinyOneBit {
  static constexpr ctrain::Policy policy{
      .model = tiny_model,
      .batch = {.packed_tokens = 256, .length = 64, .accumulation = 4 / Ranks},
      .optimizer = {.kind = ctrain::OptimizerKind::one_bit_lamb,
                    .learning_rate = 1e-3f,
                    .compression = {.freeze_step = 3}},
      .parallel = {.data = Ranks, .deadline = 10},
      .device = ctrain::host_memory(64 * ctrain::MiB, 2)};
};

int main(int argc, char** argv) {
  using ctrain::Cpu, ctrain::Mpi, ctrain::finetune_classification;
  const char* const launched = std::getenv("OMPI_COMM_WORLD_SIZE");
  const std::string ranks = launched != nullptr ? launched : "1";
  if (ranks == "2") return finetune_classification<TinyOneBit<2>, Cpu, Mpi>(argc, argv);
  if (ranks == "4") return finetune_classification<TinyOneBit<4>, Cpu, Mpi>(argc, argv);
  return finetune_classification<TinyOneBit<1>>(argc, argv);
}
