// Nine buckets ahead are more than a plan holds.
// ERRORS: 1
// EXPECT: error: .*invalid policy: buffers of collectives have a size
// EXPECT: zero_buffers_are_bounded(<true, 9>|.*with [A-Za-z]+=true, [A-Za-z]+=9\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.data = 2},
                                         .zero = {.stage = 3, .prefetch = 9},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
