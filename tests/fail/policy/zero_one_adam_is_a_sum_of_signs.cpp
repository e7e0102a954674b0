// ERRORS: 3
// EXPECT: error: .*invalid policy: a 1-bit optimizer compresses momentum, which every data rank
// EXPECT: rule::sums_of_signs_are_of_whole_states<(true, 1>|.*ZeroStage=1\])
// EXPECT: error: .*invalid policy: a 1-bit optimizer compresses whole tensors of whole models
// EXPECT: rule::sums_of_signs_are_among_data_ranks<(true, 1, 2>|.*Pipeline=2\])
// EXPECT: error: .*invalid policy: what a 1-bit optimizer loses and keeps depends on who compresses
// EXPECT: rule::signs_depend_on_the_layout<(true, true>|.*LayoutInvariant=true\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .optimizer = {.kind = ctrain::OptimizerKind::zero_one_adam},
      .parallel = {.data = 2, .pipeline = 2},
      .zero = {.stage = 1},
      .deterministic = ctrain::Deterministic::layout_invariant,
      .device = ctrain::a100_40gb};
};
static_assert(sizeof(ctrain::CheckPolicy<Broken>));
