// ERRORS: 1
// EXPECT: error: .*invalid policy: gradients in fp16 vanish unless the loss is scaled
// EXPECT: rule::fp16_and_a_loss_scale_go_together<(false, true>|.*LossIsScaled=true\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .precision = {.compute = ctrain::Compute::bf16, .loss_scale = ctrain::grad_scaler},
      .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
