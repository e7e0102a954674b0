// 64 ranks are proved, 128 are not.
// ERRORS: 1
// EXPECT: error: .*invalid policy: schedules are proved for 1 to 64 ranks
// EXPECT: ranks_are_1_to_64(<64, 2, 1>|.*with [A-Za-z]+=64, [A-Za-z]+=2, [A-Za-z]+=1\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.data = 64, .tensor = 2},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
