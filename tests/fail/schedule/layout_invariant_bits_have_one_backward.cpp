// A zero-bubble schedule takes gradients of norms early and of matrices late.
// ERRORS: 1
// EXPECT: error: .*invalid policy: zero_bubble takes gradients of norms and of
// EXPECT: layout_invariant_bits_have_one_backward(<true, true, 2>|.*with [A-Za-z]+=true, [A-Za-z]+=true, [A-Za-z]+=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048, .accumulation = 4},
      .parallel = {.pipeline = 2, .order = ctrain::PipelineOrder::zero_bubble},
      .deterministic = ctrain::Deterministic::layout_invariant,
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
