// A balanced tree needs more sums than a stream has.
// ERRORS: 1
// EXPECT: error: .*invalid policy: a streamed unit has one buffer for its gradients
// EXPECT: streamed_gradients_are_added_in_turn(<true, true, 2>|.*with [A-Za-z]+=true, [A-Za-z]+=true, [A-Za-z]+=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048, .accumulation = 2},
      .deterministic = ctrain::Deterministic::layout_invariant,
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::host},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
