// ERRORS: 1
// EXPECT: error: .*memory budget exceeded\. The plan is listed around this message, one category per line; cheapest_fix is the change
// EXPECT: memory_budget_exceeded<.*plan_needs<.*GiB<26, '\.', 9>.*device_has<.*GiB<23, '\.', 5>.*cheapest_fix<.*set_recompute_to_full, 0, .*plan_needs<.*GiB<20, '\.', 1>
// EXPECT: activations<.*GiB<7, '\.', 6>
// EXPECT: workspace<.*GiB<0, '\.', 1>
// EXPECT: weight_copies<.*GiB<0, '\.', 0>
// EXPECT: optimizer_state<.*GiB<9, '\.', 4>
// EXPECT: gradients<.*GiB<4, '\.', 7>
// EXPECT: parameters<.*GiB<4, '\.', 7>
// EXPECT: batch_and_runtime<.*GiB<0, '\.', 6>
#include <ctrain/check.hpp>

struct TooLarge {
  static constexpr ctrain::Policy policy{.batch = {.sentences = 5, .length = 512},
                                         .device = ctrain::gpu_24gb};
};
static_assert(ctrain::check<TooLarge>());
