// ERRORS: 1
// EXPECT: error: .*invalid policy: polynomial decay ends below where it starts\. Set schedule\.end within \[0, optimizer\.learning_rate\) and schedule\.power > 0\.
// EXPECT: rule::polynomial_decay_goes_down<(true, false, true>|.*Polynomial=true, EndIsBelowBase=false, PowerIsPositive=true\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .schedule = {.decay = ctrain::Decay::polynomial, .end = 1e-5f},
      .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
