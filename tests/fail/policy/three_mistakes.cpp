// ERRORS: 3
// EXPECT: error: .*invalid policy: classification needs at least two labels\. Set model\.labels >= 2\.
// EXPECT: rule::a_head_tells_two_labels_apart<(1>|.*Labels=1\])
// EXPECT: error: .*invalid policy: packed rows are computed 16 at a time\. Make batch\.packed_tokens a multiple of 16\.
// EXPECT: rule::packed_tokens_are_a_multiple_of_16<(1000>|.*PackedTokens=1000\])
// EXPECT: error: .*invalid policy: a number of the optimizer is negative, or epsilon is not positive\. Set optimizer\.learning_rate, optimizer\.weight_decay and optimizer\.clip >= 0 and optimizer\.epsilon > 0\.
// EXPECT: rule::optimizer_numbers_are_not_negative<(true, true, false, true>|.*LearningRate=true, Epsilon=true, WeightDecay=false, Clip=true\])
#include <ctrain/check.hpp>

struct ThreeMistakes {
  static constexpr ctrain::Policy policy{.model = {.labels = 1},
                                         .batch = {.packed_tokens = 1000},
                                         .optimizer = {.weight_decay = -0.1f},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<ThreeMistakes>());
