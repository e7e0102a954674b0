// ERRORS: 1
// EXPECT: error: .*invalid policy: new weights are drawn with a standard deviation that is negative\. Set model\.initializer_range >= 0\.
// EXPECT: rule::initializer_range_is_a_deviation<(false>|.*InitializerRangeIsZeroOrMore=false\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.model = {.initializer_range = -0.02f},
                                         .batch = {.packed_tokens = 2048},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
