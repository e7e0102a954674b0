// ERRORS: 1
// EXPECT: error: .*invalid policy: dropout is a probability and keeps something\. Set model\.hidden_dropout and model\.attention_dropout between 0 and 0\.999\.
// EXPECT: rule::dropout_keeps_something<(1000000, 100000>|.*HiddenMillionths=1000000, AttentionMillionths=100000\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.model = {.hidden_dropout = 1},
                                         .batch = {.packed_tokens = 2048},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
