// Half a head has nowhere to be computed.
// ERRORS: 1
// EXPECT: error: .*invalid policy: whole attention heads are split
// EXPECT: tensor_ranks_divide_heads(<8, 16>|.*with [A-Za-z]+=8, [A-Za-z]+=16\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048}, .parallel = {.tensor = 16}, .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
