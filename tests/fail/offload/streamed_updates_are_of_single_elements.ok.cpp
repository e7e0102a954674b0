// The twin of streamed_updates_are_of_single_elements.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .optimizer = {.kind = ctrain::OptimizerKind::adam_l2},
                                         .offload = {.optimizer = ctrain::OffloadTo::host},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
