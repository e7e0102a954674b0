// The twin of what_is_read_oftener_lies_nearer.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .offload = {.optimizer = ctrain::OffloadTo::disk, .parameters = ctrain::OffloadTo::disk},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
