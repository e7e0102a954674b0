// The twin of zero_buffers_are_bounded.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.data = 2},
                                         .zero = {.stage = 3, .prefetch = 8},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
