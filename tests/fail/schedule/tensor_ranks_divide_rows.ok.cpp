// The twin of tensor_ranks_divide_rows.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.sentences = 1, .length = 126},
                                         .parallel = {.tensor = 2, .sequence = true},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
