// Fine-tunes a small MegatronBERT on pairs of sentences, on this machine's processor.
#include <ctrain/ctrain.hpp>

struct AfqmcMini {
  static constexpr ctrain::Policy policy{
      .model = ctrain::megatron_bert_mini,
      .batch = {.packed_tokens = 2048},
      .optimizer = {.learning_rate = 5e-4f, .weight_decay = 0.1f},
      .schedule = {.warmup = 0.1f},
      .device = ctrain::host_memory(2 * ctrain::GiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcMini>(argc, argv);
}
