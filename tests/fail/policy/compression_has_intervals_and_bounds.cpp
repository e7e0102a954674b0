// ERRORS: 1
// EXPECT: error: .*invalid policy: a number of optimizer\.compression is out of range
// EXPECT: rule::compression_has_intervals_and_bounds<(false, true>|.*FactorsAreOrdered=true\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.compression = {.freeze_step = 0}},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
