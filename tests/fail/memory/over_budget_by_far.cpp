// ERRORS: 1
// EXPECT: error: .*memory budget exceeded\. The plan is listed around this message, one category per line; cheapest_fix is the change
// EXPECT: memory_budget_exceeded<.*plan_needs<.*GiB<51, '\.', 9>.*device_has<.*GiB<1, '\.', 0>.*cheapest_fix<.*get_a_device_of_GiB, 52, .*plan_needs<.*GiB<51, '\.', 9>
// EXPECT: activations<.*GiB<24, '\.', 1>
// EXPECT: workspace<.*GiB<0, '\.', 2>
// EXPECT: weight_copies<.*GiB<9, '\.', 0>
// EXPECT: optimizer_state<.*GiB<9, '\.', 4>
// EXPECT: gradients<.*GiB<4, '\.', 7>
// EXPECT: parameters<.*GiB<4, '\.', 7>
// EXPECT: batch_and_runtime<.*GiB<0, '\.', 1>
#include <ctrain/check.hpp>

struct TooLarge {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 8192, .length = 16},
                                         .device = ctrain::host_memory(1 * ctrain::GiB)};
};
static_assert(ctrain::check<TooLarge>());
