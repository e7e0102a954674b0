// The twin of streamed_gradients_are_added_in_turn.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048, .accumulation = 2},
      .deterministic = ctrain::Deterministic::fixed_layout,
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::host},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
