// What the tests here run: fp32, packed batches, dropout on.
#include <ctrain/ctrain.hpp>

#include "tiny.hpp"

struct TinyPacked {
  static constexpr ctrain::Policy policy{.model = tiny_model,
                                         .batch = {.packed_tokens = 256, .length = 64},
                                         .optimizer = {.learning_rate = 1e-3f},
                                         .device = ctrain::host_memory(64 * ctrain::MiB, 2)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<TinyPacked>(argc, argv);
}
