// The twin of the_deadline_is_positive.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.data = 2, .deadline = 0.5f},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
