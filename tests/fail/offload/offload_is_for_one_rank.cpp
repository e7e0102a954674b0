// Two ranks cannot stream.
// ERRORS: 1
// EXPECT: error: .*invalid policy: the table of a streamed step is that of one device and its link
// EXPECT: offload_is_for_one_rank(<true, 2>|.*with [A-Za-z]+=true, [A-Za-z]+=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .parallel = {.data = 2},
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::host},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
