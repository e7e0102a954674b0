// 24 blocks do not make 5 equal stages.
// ERRORS: 1
// EXPECT: error: .*invalid policy: every pipeline stage has the same number of blocks
// EXPECT: pipeline_stages_divide_layers(<24, 5>|.*with [A-Za-z]+=24, [A-Za-z]+=5\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048}, .parallel = {.pipeline = 5}, .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
