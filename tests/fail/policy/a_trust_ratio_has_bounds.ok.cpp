#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.trust_ratio = {1, 2}},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Mended>());
