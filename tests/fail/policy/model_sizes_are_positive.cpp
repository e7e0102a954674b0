// ERRORS: 1
// EXPECT: error: .*invalid policy: a size of the model is zero or negative\. Set every one of model\.vocabulary, model\.layers, model\.hidden, model\.heads and model\.feed_forward to at least 1\.
// EXPECT: rule::model_sizes_are_positive<(21248, 0, 2048, 8, 8192>|.*Vocabulary=21248, Layers=0, Hidden=2048, Heads=8, FeedForward=8192\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .model = {.layers = 0}, .batch = {.packed_tokens = 2048}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
