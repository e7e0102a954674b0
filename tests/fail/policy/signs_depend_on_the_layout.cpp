// ERRORS: 1
// EXPECT: error: .*invalid policy: what a 1-bit optimizer loses and keeps depends on who compresses
// EXPECT: rule::signs_depend_on_the_layout<(true, true>|.*LayoutInvariant=true\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.kind = ctrain::OptimizerKind::one_bit_adam},
                                         .parallel = {.data = 2},
                                         .deterministic = ctrain::Deterministic::layout_invariant,
                                         .device = ctrain::a100_40gb};
};
static_assert(sizeof(ctrain::CheckPolicy<Broken>));
