#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048, .accumulation = 1},
      .precision = {.compute = ctrain::Compute::bf16, .gradients = ctrain::Compute::bf16},
      .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Mended>());
