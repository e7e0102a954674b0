// Rows cannot be split over one rank.
// ERRORS: 1
// EXPECT: error: .*invalid policy: the rows of the stream are split over tensor ranks
// EXPECT: sequence_parallel_needs_tensor_ranks(<true, 1>|.*with [A-Za-z]+=true, [A-Za-z]+=1\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.sequence = true},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
