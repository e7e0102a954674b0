// ERRORS: 1
// EXPECT: error: .*invalid policy: a size of the model is beyond what plans count\. Set model\.vocabulary <= 4194304, model\.layers <= 4096, model\.hidden <= 65536, model\.feed_forward <= 262144 and model\.labels <= 65536\.
// EXPECT: rule::model_sizes_are_countable<(21248, 24, 2048, 8192, 100000>|.*Vocabulary=21248, Layers=24, Hidden=2048, FeedForward=8192, Labels=100000\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .model = {.labels = 100000}, .batch = {.packed_tokens = 2048}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
