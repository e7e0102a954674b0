// Six micro-batches make no balanced tree.
// ERRORS: 1
// EXPECT: error: .*invalid policy: layout-invariant gradients are added in one
// EXPECT: layout_invariant_sums_are_balanced(<true, 2, 3>|.*with [A-Za-z]+=true, [A-Za-z]+=2, [A-Za-z]+=3\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 3},
                                         .parallel = {.data = 2},
                                         .deterministic = ctrain::Deterministic::layout_invariant,
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
