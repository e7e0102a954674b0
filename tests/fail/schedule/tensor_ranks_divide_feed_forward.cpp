// Features are split in groups of 16.
// ERRORS: 1
// EXPECT: error: .*invalid policy: each tensor rank has whole groups of 16
// EXPECT: tensor_ranks_divide_feed_forward(<8208, 2>|.*with [A-Za-z]+=8208, [A-Za-z]+=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.model = {.feed_forward = 8208},
                                         .batch = {.packed_tokens = 2048},
                                         .parallel = {.tensor = 2},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
