#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Mended {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.kind = ctrain::OptimizerKind::one_bit_adam},
                                         .parallel = {.data = 2},
                                         .deterministic = ctrain::Deterministic::fixed_layout,
                                         .device = ctrain::a100_40gb};
};
static_assert(sizeof(ctrain::CheckPolicy<Mended>));
