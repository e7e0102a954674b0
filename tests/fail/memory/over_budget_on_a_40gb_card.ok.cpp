#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{
      .batch = {.sentences = 8, .length = 512, .accumulation = 2}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Mended>());
