// The twin of layout_invariant_bits_have_one_backward.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 4},
                                         .parallel = {.pipeline = 2},
                                         .deterministic = ctrain::Deterministic::layout_invariant,
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
