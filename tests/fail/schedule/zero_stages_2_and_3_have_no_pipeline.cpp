// Stage 3 would gather weights for every micro-batch of a pipeline.
// ERRORS: 1
// EXPECT: error: .*invalid policy: ZeRO stages 2 and 3 send gradients
// EXPECT: zero_stages_2_and_3_have_no_pipeline(<3, 2>|.*with [A-Za-z]+=3, [A-Za-z]+=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.data = 2, .pipeline = 2},
                                         .zero = {.stage = 3},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
