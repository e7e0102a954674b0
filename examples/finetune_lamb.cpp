// The main job with LAMB: each tensor moves in proportion to its own norm.
#include <ctrain/ctrain.hpp>

struct AfqmcLamb {
  static constexpr ctrain::Policy policy{.model = ctrain::megatron_bert_mini,
                                         .batch = {.packed_tokens = 2048},
                                         .optimizer = {.kind = ctrain::OptimizerKind::lamb,
                                                       .learning_rate = 5e-3f,
                                                       .epsilon = 1e-6f,
                                                       .weight_decay = 0.01f},
                                         .schedule = {.warmup = 0.1f},
                                         .device = ctrain::host_memory(2 * ctrain::GiB)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<AfqmcLamb>(argc, argv);
}
