// ERRORS: 1
// EXPECT: error: .*memory budget exceeded\. The plan is listed around this message, one category per line; cheapest_fix is the change
// EXPECT: memory_budget_exceeded<.*plan_needs<.*GiB<43, '\.', 5>.*device_has<.*GiB<39, '\.', 3>.*cheapest_fix<.*set_batch_sentences_to, 8, .*plan_needs<.*GiB<31, '\.', 4>
#include <ctrain/check.hpp>

struct TooLarge {
  static constexpr ctrain::Policy policy{.batch = {.sentences = 16, .length = 512},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<TooLarge>());
