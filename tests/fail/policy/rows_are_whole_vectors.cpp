// ERRORS: 1
// EXPECT: error: .*invalid policy: kernels work on 16 elements at a time\. Make model\.hidden, model\.hidden / model\.heads and model\.feed_forward multiples of 16\.
// EXPECT: rule::rows_are_whole_vectors<(2048, 8, 8192>|.*Hidden=2048, HeadSize=8, FeedForward=8192\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .model = {.heads = 256}, .batch = {.packed_tokens = 2048}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
