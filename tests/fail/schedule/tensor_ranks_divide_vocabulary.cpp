// An odd word table has no halves.
// ERRORS: 1
// EXPECT: error: .*invalid policy: rows of the word table are split
// EXPECT: tensor_ranks_divide_vocabulary(<21249, 2>|.*with [A-Za-z]+=21249, [A-Za-z]+=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.model = {.vocabulary = 21249},
                                         .batch = {.packed_tokens = 2048},
                                         .parallel = {.tensor = 2},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
