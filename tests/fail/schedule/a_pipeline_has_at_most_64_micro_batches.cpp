// A schedule does not list 65 micro-batches.
// ERRORS: 1
// EXPECT: error: .*invalid policy: a pipeline.s schedule lists each micro-batch
// EXPECT: a_pipeline_has_at_most_64_micro_batches(<2, 65>|.*with [A-Za-z]+=2, [A-Za-z]+=65\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 65},
                                         .parallel = {.pipeline = 2},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
