#include <ctrain/check.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{
      .model = ctrain::erlangshen_3b9,
      .batch = {.sentences = 4, .length = 512},
      .device = {ctrain::DeviceKind::cuda, 73 * ctrain::GiB, ctrain::a100_40gb.reserved}};
};
static_assert(ctrain::check<Mended>());
