#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{.batch = {.sentences = 5, .length = 512},
                                         .recompute = ctrain::Recompute::full,
                                         .device = ctrain::gpu_24gb};
};
static_assert(ctrain::check<Mended>());
