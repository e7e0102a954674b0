// ERRORS: 1
// EXPECT: error: .*invalid policy: a number of the optimizer is negative, or epsilon is not positive\. Set optimizer\.learning_rate, optimizer\.weight_decay and optimizer\.clip >= 0 and optimizer\.epsilon > 0\.
// EXPECT: rule::optimizer_numbers_are_not_negative<(true, true, false, true>|.*LearningRate=true, Epsilon=true, WeightDecay=false, Clip=true\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.weight_decay = -0.1f},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
