// The main job with weights and optimizer state in a file (--offload_dir says where): a block at a
// time comes to a small device arena, with the bits, checkpoints and predictions of a run that
// keeps everything in memory.
#include <ctrain/ctrain.hpp>

struct AfqmcOffload {
  static constexpr ctrain::Policy policy{
      .model = ctrain::megatron_bert_mini,
      .batch = {.packed_tokens = 2048},
      .weights = ctrain::WeightLayout::plain,
      .optimizer = {.learning_rate = 5e-4f, .weight_decay = 0.1f},
      .schedule = {.warmup = 0.1f},
      .recompute = ctrain::Recompute::full,
      .offload = {.optimizer = ctrain::OffloadTo::disk,
                  .parameters = ctrain::OffloadTo::disk,
                  .activations = ctrain::OffloadTo::host,
                  .clipping = ctrain::OffloadClipping::deferred,
                  .piece = 2 * ctrain::MiB},
      .device = ctrain::host_memory(128 * ctrain::MiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcOffload>(argc, argv);
}
