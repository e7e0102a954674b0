#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 1008},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Mended>());
