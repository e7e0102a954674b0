#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .device = ctrain::host_memory(64 * ctrain::GiB, 8)};
};
static_assert(ctrain::check<Mended>());
