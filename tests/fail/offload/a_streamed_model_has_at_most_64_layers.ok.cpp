// The twin of a_streamed_model_has_at_most_64_layers.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .model = {.layers = 64},
      .batch = {.packed_tokens = 2048},
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::host},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
