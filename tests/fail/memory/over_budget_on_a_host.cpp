// ERRORS: 1
// EXPECT: error: .*memory budget exceeded\. The plan is listed around this message, one category per line; cheapest_fix is the change
// EXPECT: memory_budget_exceeded<.*plan_needs<.*GiB<33, '\.', 8>.*device_has<.*GiB<28, '\.', 0>.*cheapest_fix<.*set_weights_to_plain, 0, .*plan_needs<.*GiB<24, '\.', 8>
// EXPECT: activations<.*GiB<6, '\.', 1>
// EXPECT: workspace<.*GiB<0, '\.', 1>
// EXPECT: weight_copies<.*GiB<9, '\.', 0>
// EXPECT: optimizer_state<.*GiB<9, '\.', 4>
// EXPECT: gradients<.*GiB<4, '\.', 7>
// EXPECT: parameters<.*GiB<4, '\.', 7>
// EXPECT: batch_and_runtime<.*GiB<0, '\.', 1>
#include <ctrain/check.hpp>

struct TooLarge {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .device = ctrain::host_memory(28 * ctrain::GiB)};
};
static_assert(ctrain::check<TooLarge>());
