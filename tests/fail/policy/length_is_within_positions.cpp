// ERRORS: 1
// EXPECT: error: .*invalid policy: a sentence may not be longer than the position embedding\. Set batch\.length <= model\.positions\.
// EXPECT: rule::length_is_within_positions<(1024, 512>|.*Length=1024, Positions=512\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .length = 1024},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
