// Fine-tunes Erlangshen-1.3B on pairs of sentences, on one card of 40 GB. Without a card it says so
// and names the program that does it on a processor.
#include <ctrain/ctrain.hpp>

struct AfqmcErlangshen {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048, .sentences = 64},
      .precision = {.compute = ctrain::Compute::bf16},
      .optimizer = {.learning_rate = 1e-5f, .weight_decay = 0.1f},
      .schedule = {.warmup = 0.1f},
      .device = ctrain::a100_40gb};
};

int main(int argc, char** argv) {
  ctrain::cuda::require_device("finetune_afqmc");
  return ctrain::finetune_classification<AfqmcErlangshen>(argc, argv);
}
