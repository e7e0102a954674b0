// ERRORS: 1
// EXPECT: error: .*invalid policy: the moments of Adam decay\. Set optimizer\.beta1 and optimizer\.beta2 within \[0, 1\)\.
// EXPECT: rule::betas_are_below_one<(900000, 1000000>|.*Beta1Millionths=900000, Beta2Millionths=1000000\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048}, .optimizer = {.beta2 = 1}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
