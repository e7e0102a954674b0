// ERRORS: 1
// EXPECT: error: .*invalid policy: a norm divides by the root of a variance plus epsilon\. Set model\.layer_norm_epsilon > 0\.
// EXPECT: rule::layer_norm_epsilon_is_positive<(false>|.*LayerNormEpsilonIsPositive=false\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.model = {.layer_norm_epsilon = 0},
                                         .batch = {.packed_tokens = 2048},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
