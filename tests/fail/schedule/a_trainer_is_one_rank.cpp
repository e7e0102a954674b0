// Nothing pretends to train on two ranks.
// ERRORS: 1
// EXPECT: error: .*invalid policy: a policy of many ranks can be checked
// EXPECT: a_trainer_is_one_rank(<2>|.*with [A-Za-z]+=2\])
// COMPILERS: g++ clang++
// INCLUDE_HOST
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/trainer.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.model = ctrain::megatron_bert_mini,
                                         .batch = {.packed_tokens = 512},
                                         .parallel = {.data = 2},
                                         .device = ctrain::host_memory(2 * ctrain::GiB)};
};

static_assert(sizeof(ctrain::Verified<Split>));
