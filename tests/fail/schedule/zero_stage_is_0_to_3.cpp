// There is no stage 4.
// ERRORS: 1
// EXPECT: error: .*invalid policy: ZeRO has stages 0 to 3
// EXPECT: zero_stage_is_0_to_3(<4>|.*with [A-Za-z]+=4\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.data = 2},
                                         .zero = {.stage = 4},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
