// The twin of zero_bubble_keeps_its_activations.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 4},
                                         .recompute = ctrain::Recompute::full,
                                         .parallel = {.pipeline = 2},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
