// Gradients in bf16 would be rounded at every addition.
// ERRORS: 1
// EXPECT: error: .*invalid policy: gradients are added over ranks in binary32
// EXPECT: narrow_gradients_stay_on_one_rank(<true, 2>|.*with [A-Za-z]+=true, [A-Za-z]+=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .precision = {.compute = ctrain::Compute::bf16, .gradients = ctrain::Compute::bf16},
      .parallel = {.data = 2},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
