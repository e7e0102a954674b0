// The other half of what the tests here run: bf16, padded batches, two of them in a step, blocks
// computed again in backward.
#include <ctrain/ctrain.hpp>

#include "tiny.hpp"

struct TinyPadded {
  static constexpr ctrain::Policy policy{.model = tiny_model,
                                         .batch = {.sentences = 4, .length = 64, .accumulation = 2},
                                         .precision = {ctrain::Compute::bf16},
                                         .optimizer = {.learning_rate = 1e-3f},
                                         .recompute = ctrain::Recompute::full,
                                         .device = ctrain::host_memory(64 * ctrain::MiB, 2)};
};

int main(int argc, char** argv) {
  return ctrain::finetune_classification<TinyPadded>(argc, argv);
}
