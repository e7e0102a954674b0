// ERRORS: 1
// EXPECT: error: .*invalid policy: backends have every optimizer, but no step runs the others yet
// EXPECT: rule::a_step_ends_with_adam<(false>|.*OptimizerIsAdam=false\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.kind = ctrain::OptimizerKind::lamb},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
