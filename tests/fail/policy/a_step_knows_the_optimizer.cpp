// ERRORS: 1
// EXPECT: error: .*invalid policy: backends have the programs of 0/1 Adam, but no step
// EXPECT: rule::a_step_knows_the_optimizer<(false>|.*StepsHaveIt=false\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .optimizer = {.kind = ctrain::OptimizerKind::zero_one_adam},
      .device = ctrain::a100_40gb};
};
static_assert(sizeof(ctrain::CheckPolicy<Broken>));
