// ERRORS: 1
// EXPECT: error: .*memory budget exceeded\. The plan is listed around this message, one category per line; cheapest_fix is the change
// EXPECT: memory_budget_exceeded<.*plan_needs<.*GiB<72, '\.', 8>.*device_has<.*GiB<39, '\.', 3>.*cheapest_fix<.*get_a_device_of_GiB, 73, .*plan_needs<.*GiB<72, '\.', 8>
// EXPECT: activations<.*GiB<15, '\.', 1>
// EXPECT: workspace<.*GiB<0, '\.', 1>
// EXPECT: weight_copies<.*GiB<0, '\.', 0>
// EXPECT: optimizer_state<.*GiB<28, '\.', 7>
// EXPECT: gradients<.*GiB<14, '\.', 4>
// EXPECT: parameters<.*GiB<14, '\.', 4>
// EXPECT: batch_and_runtime<.*GiB<0, '\.', 6>
#include <ctrain/check.hpp>

struct TooLarge {
  static constexpr ctrain::Policy policy{.model = ctrain::erlangshen_3b9,
                                         .batch = {.sentences = 4, .length = 512},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<TooLarge>());
