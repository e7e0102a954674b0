#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{
      .batch = {.sentences = 40, .length = 64, .accumulation = 250}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Mended>());
