#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .weights = ctrain::WeightLayout::plain,
                                         .device = ctrain::host_memory(28 * ctrain::GiB)};
};
static_assert(ctrain::check<Mended>());
