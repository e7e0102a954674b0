// ERRORS: 1
// EXPECT: error: .*invalid policy: an optimizer step has at least one micro-batch\. Set batch\.accumulation >= 1\.
// EXPECT: rule::accumulation_is_at_least_one<(0>|.*Accumulation=0\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 0},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
