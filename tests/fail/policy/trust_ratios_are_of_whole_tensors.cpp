// ERRORS: 1
// EXPECT: error: .*invalid policy: LAMB's trust ratio is of a whole tensor's norms
// EXPECT: rule::trust_ratios_are_of_whole_tensors<(true, 2, 1>|.*Tensor=1\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.kind = ctrain::OptimizerKind::lamb},
                                         .parallel = {.data = 2},
                                         .zero = {.stage = 2},
                                         .device = ctrain::a100_40gb};
};
static_assert(sizeof(ctrain::CheckPolicy<Broken>));
