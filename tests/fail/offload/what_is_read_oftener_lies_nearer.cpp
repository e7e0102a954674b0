// Weights on disk, moments in memory: the wrong way round.
// ERRORS: 1
// EXPECT: error: .*invalid policy: weights and gradients are read at least as often as moments
// EXPECT: what_is_read_oftener_lies_nearer(<.*host.*disk.*none.*|\(ctrain::OffloadTo\)1, \(ctrain::OffloadTo\)2, \(ctrain::OffloadTo\)0>|.*with Optimizer=.*host.*Parameters=.*disk.*|.*Optimizer=.*1.*Parameters=.*2.*\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::disk},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
