// ERRORS: 1
// EXPECT: error: .*invalid policy: a micro-batch is beyond what plans count\. Set batch\.packed_tokens <= 4194304 and batch\.sentences <= 8192, and reach a larger step with batch\.accumulation\.
// EXPECT: rule::a_micro_batch_is_countable<(0, 10000>|.*PackedTokens=0, Sentences=10000\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.sentences = 10000, .length = 64},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
