#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{.model = {.labels = 2},
                                         .batch = {.packed_tokens = 1008},
                                         .optimizer = {.weight_decay = 0.1f},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Mended>());
