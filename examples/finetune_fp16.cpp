// The main job in fp16, whose loss is scaled as torch's GradScaler does it.
#include <ctrain/ctrain.hpp>

struct AfqmcFp16 {
  static constexpr ctrain::Policy policy{
      .model = ctrain::megatron_bert_mini,
      .batch = {.packed_tokens = 2048},
      .precision = {.compute = ctrain::Compute::fp16, .loss_scale = ctrain::grad_scaler},
      .optimizer = {.learning_rate = 5e-4f, .weight_decay = 0.1f},
      .schedule = {.warmup = 0.1f},
      .device = ctrain::host_memory(2 * ctrain::GiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcFp16>(argc, argv);
}
