// Fine-tunes a small MegatronBERT on pairs of sentences with two processes: each takes every other
// micro-batch and keeps half of the optimizer's state. Weights have the very bits of one process
// with batch.accumulation = 2. Start it with: mpirun -n 2 finetune_afqmc_mpi FLAGS
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/ctrain.hpp>

struct AfqmcOnTwoRanks {
  static constexpr ctrain::Policy policy{
      .model = ctrain::megatron_bert_mini,
      .batch = {.packed_tokens = 1024},
      .optimizer = {.learning_rate = 5e-4f, .weight_decay = 0.1f},
      .schedule = {.warmup = 0.1f},
      .parallel = {.data = 2},
      .zero = {.stage = 1},
      .deterministic = ctrain::Deterministic::layout_invariant,
      .device = ctrain::host_memory(2 * ctrain::GiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcOnTwoRanks, ctrain::Cpu, ctrain::Mpi>(argc, argv);
}
