// Who gives up at once never gets anything.
// ERRORS: 1
// EXPECT: error: .*invalid policy: a rank waits some time for another before it gives up
// EXPECT: the_deadline_is_positive(<false>|.*with [A-Za-z]+=false\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.data = 2, .deadline = 0},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
