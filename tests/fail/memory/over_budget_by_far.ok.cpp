#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 8192, .length = 16},
                                         .device = ctrain::host_memory(52 * ctrain::GiB)};
};
static_assert(ctrain::check<Mended>());
