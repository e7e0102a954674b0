// ERRORS: 1
// EXPECT: error: .*invalid policy: LAMB's trust ratio lies between two bounds
// EXPECT: rule::a_trust_ratio_has_bounds<(false>|.*BoundsAreOrdered=false\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.trust_ratio = {2, 1}},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
