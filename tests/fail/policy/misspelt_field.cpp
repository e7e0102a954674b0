// ERRORS: 1
// EXPECT: error: .*bacth
#include <ctrain/check.hpp>

struct Misspelt {
  static constexpr ctrain::Policy policy{.bacth = {.packed_tokens = 2048},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Misspelt>());
