// The main job with Adam as it was first: decay is a part of the gradient.
#include <ctrain/ctrain.hpp>

struct AfqmcAdamL2 {
  static constexpr ctrain::Policy policy{.model = ctrain::megatron_bert_mini,
                                         .batch = {.packed_tokens = 2048},
                                         .optimizer = {.kind = ctrain::OptimizerKind::adam_l2,
                                                       .learning_rate = 5e-4f,
                                                       .weight_decay = 1e-4f},
                                         .schedule = {.warmup = 0.1f},
                                         .device = ctrain::host_memory(2 * ctrain::GiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcAdamL2>(argc, argv);
}
