// ERRORS: 1
// EXPECT: error: .*invalid policy: a 1-bit optimizer compresses momentum, which every data rank
// EXPECT: rule::sums_of_signs_are_of_whole_states<(true, 1>|.*ZeroStage=1\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.kind = ctrain::OptimizerKind::one_bit_adam},
                                         .parallel = {.data = 2},
                                         .zero = {.stage = 1},
                                         .device = ctrain::a100_40gb};
};
static_assert(sizeof(ctrain::CheckPolicy<Broken>));
