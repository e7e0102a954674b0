#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 1024, .accumulation = 2},
                                         .device = ctrain::gpu_24gb};
};
static_assert(ctrain::check<Mended>());
