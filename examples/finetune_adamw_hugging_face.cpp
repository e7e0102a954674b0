// The main job with the AdamW that transformers had, as the original script takes it where
// DeepSpeed does not: epsilon is not rescaled, and decay acts on the weight that has been updated.
#include <ctrain/ctrain.hpp>

struct AfqmcHuggingFaceAdamW {
  static constexpr ctrain::Policy policy{
      .model = ctrain::megatron_bert_mini,
      .batch = {.packed_tokens = 2048},
      .optimizer = {.kind = ctrain::OptimizerKind::adamw_hugging_face,
                    .learning_rate = 5e-4f,
                    .weight_decay = 0.1f},
      .schedule = {.warmup = 0.1f},
      .device = ctrain::host_memory(2 * ctrain::GiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcHuggingFaceAdamW>(argc, argv);
}
