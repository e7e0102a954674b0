// LAMB needs the norms of whole tensors, which pass in pieces.
// ERRORS: 1
// EXPECT: error: .*invalid policy: states stream in pieces, and this optimizer needs a whole tensor
// EXPECT: streamed_updates_are_of_single_elements(<true, false>|.*with [A-Za-z]+=true, [A-Za-z]+=false\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.kind = ctrain::OptimizerKind::lamb},
                                         .offload = {.optimizer = ctrain::OffloadTo::host},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
