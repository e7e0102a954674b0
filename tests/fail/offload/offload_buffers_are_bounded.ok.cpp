// The twin of offload_buffers_are_bounded.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .offload = {.optimizer = ctrain::OffloadTo::host,
                                                     .parameters = ctrain::OffloadTo::host,
                                                     .buffers = 1},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
