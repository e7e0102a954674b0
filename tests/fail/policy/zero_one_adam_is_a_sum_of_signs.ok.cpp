#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .optimizer = {.kind = ctrain::OptimizerKind::zero_one_adam},
      .parallel = {.data = 4},
      .zero = {.stage = 0},
      .deterministic = ctrain::Deterministic::fixed_layout,
      .device = ctrain::a100_40gb};
};
static_assert(sizeof(ctrain::CheckPolicy<Mended>));
