// ERRORS: 1
// EXPECT: error: .*invalid policy: gradients kept in 16 bits are rounded once, by a product of that type\. Set precision\.compute = precision\.gradients and batch\.accumulation = 1
// EXPECT: rule::narrow_gradients_are_rounded_once<(true, true, 4>|.*Accumulation=4\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048, .accumulation = 4},
      .precision = {.compute = ctrain::Compute::bf16, .gradients = ctrain::Compute::bf16},
      .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
