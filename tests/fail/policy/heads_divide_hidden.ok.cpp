#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{
      .model = {.heads = 8}, .batch = {.packed_tokens = 2048}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Mended>());
