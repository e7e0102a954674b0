// What is recomputed for the gradients of inputs is gone when those of weights are taken.
// ERRORS: 1
// EXPECT: error: .*invalid policy: zero_bubble takes gradients of weights later
// EXPECT: zero_bubble_keeps_its_activations(<true, 2, true>|.*with [A-Za-z]+=true, [A-Za-z]+=2, [A-Za-z]+=true\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048, .accumulation = 4},
      .recompute = ctrain::Recompute::full,
      .parallel = {.pipeline = 2, .order = ctrain::PipelineOrder::zero_bubble},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
