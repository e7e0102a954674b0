// A table does not list 128 blocks.
// ERRORS: 1
// EXPECT: error: .*invalid policy: the table of a streamed step lists each block
// EXPECT: a_streamed_model_has_at_most_64_layers(<true, 128>|.*with [A-Za-z]+=true, [A-Za-z]+=128\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .model = {.layers = 128},
      .batch = {.packed_tokens = 2048},
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::host},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
