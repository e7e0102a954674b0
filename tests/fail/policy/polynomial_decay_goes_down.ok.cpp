#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .schedule = {.decay = ctrain::Decay::polynomial, .end = 1e-7f},
      .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Mended>());
