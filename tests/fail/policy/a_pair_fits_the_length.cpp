// ERRORS: 1
// EXPECT: error: .*invalid policy: a pair of texts needs \[CLS\], two \[SEP\] and a token of each\. Set batch\.length >= 5\.
// EXPECT: rule::a_pair_fits_the_length<(4>|.*Length=4\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .length = 4},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
