// Four cards that each hold all of the optimizer's state do not fit; four that share it do.
// ERRORS: 1
// EXPECT: error: .*memory budget exceeded\. The plan is listed around this message, one category per line; cheapest_fix is the change
// EXPECT: memory_budget_exceeded<.*plan_needs<.*GiB<28, '\.', 9>.*device_has<.*GiB<23, '\.', 5>.*cheapest_fix<.*set_zero_stage_to, 1, .*plan_needs<.*GiB<21, '\.', 8>
// EXPECT: communication<.*GiB<0, '\.', 0>
// EXPECT: optimizer_state<.*GiB<9, '\.', 4>
#include <ctrain/check.hpp>

struct TooLarge {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 4096},
                                         .precision = {ctrain::Compute::bf16},
                                         .parallel = {.data = 4},
                                         .device = ctrain::gpu_24gb};
};
static_assert(ctrain::check<TooLarge>());
