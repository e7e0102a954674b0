// The twin of zero_stages_2_and_3_have_no_pipeline.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.data = 2, .pipeline = 2},
                                         .zero = {.stage = 1},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
