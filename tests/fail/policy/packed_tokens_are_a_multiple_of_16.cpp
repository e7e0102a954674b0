// ERRORS: 1
// EXPECT: error: .*invalid policy: packed rows are computed 16 at a time\. Make batch\.packed_tokens a multiple of 16\.
// EXPECT: rule::packed_tokens_are_a_multiple_of_16<(1000>|.*PackedTokens=1000\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 1000},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
