#include <ctrain/check.hpp>

struct OnACard {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 1024},
                                         .precision = {.compute = ctrain::Compute::tf32},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<OnACard>());
