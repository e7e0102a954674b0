// ERRORS: 1
// EXPECT: error: .*invalid policy: a loss scale moves exponents only, so that no bit is lost\.
// EXPECT: rule::a_loss_scale_moves_by_powers_of_two<(true, 2000000, 0, 1>|.*Window=0)
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .precision = {.loss_scale = {.window = 0}},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
