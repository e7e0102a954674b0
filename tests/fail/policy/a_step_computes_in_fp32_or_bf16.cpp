// ERRORS: 1
// EXPECT: error: .*invalid policy: backends compute in fp16, but no step scales its loss yet
// EXPECT: rule::a_step_computes_in_fp32_or_bf16<(true>|.*ComputeIsFp16=true\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .precision = {.compute = ctrain::Compute::fp16, .loss_scale = ctrain::grad_scaler},
      .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
