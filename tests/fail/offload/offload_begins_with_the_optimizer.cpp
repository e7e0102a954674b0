// Activations leave before what is larger and needed less.
// ERRORS: 1
// EXPECT: error: .*invalid policy: the optimizer.s state is the largest
// EXPECT: offload_begins_with_the_optimizer(<.*none.*host|.*0, .*1>|.*with .*\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .offload = {.activations = ctrain::OffloadTo::host},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
