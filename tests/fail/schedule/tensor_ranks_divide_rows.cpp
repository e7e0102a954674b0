// An odd number of rows has no halves.
// ERRORS: 1
// EXPECT: error: .*invalid policy: with parallel.sequence the rows
// EXPECT: tensor_ranks_divide_rows(<true, 127, 2>|.*with [A-Za-z]+=true, [A-Za-z]+=127, [A-Za-z]+=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.sentences = 1, .length = 127},
                                         .parallel = {.tensor = 2, .sequence = true},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
