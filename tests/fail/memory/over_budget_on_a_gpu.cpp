// ERRORS: 1
// EXPECT: error: .*memory budget exceeded\. The plan is listed around this message, one category per line; cheapest_fix is the change
// EXPECT: memory_budget_exceeded<.*plan_needs<.*GiB<25, '\.', 4>.*device_has<.*GiB<23, '\.', 5>.*cheapest_fix<.*set_batch_packed_tokens_to, 1024, .*plan_needs<.*GiB<22, '\.', 3>
// EXPECT: activations<.*GiB<6, '\.', 1>
// EXPECT: workspace<.*GiB<0, '\.', 1>
// EXPECT: weight_copies<.*GiB<0, '\.', 0>
// EXPECT: optimizer_state<.*GiB<9, '\.', 4>
// EXPECT: gradients<.*GiB<4, '\.', 7>
// EXPECT: parameters<.*GiB<4, '\.', 7>
// EXPECT: batch_and_runtime<.*GiB<0, '\.', 6>
#include <ctrain/check.hpp>

struct TooLarge {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .device = ctrain::gpu_24gb};
};
static_assert(ctrain::check<TooLarge>());
