// The twin of a_pipeline_has_at_most_64_micro_batches.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 64},
                                         .parallel = {.pipeline = 2},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
