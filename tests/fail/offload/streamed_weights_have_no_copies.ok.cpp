// The twin of streamed_weights_have_no_copies.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .weights = ctrain::WeightLayout::plain,
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::host},
      .device = ctrain::host_memory(16 * ctrain::GiB)};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
