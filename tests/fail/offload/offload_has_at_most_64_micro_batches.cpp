// A table does not list a hundred micro-batches.
// ERRORS: 1
// EXPECT: error: .*invalid policy: the table of a streamed step lists each micro-batch
// EXPECT: offload_has_at_most_64_micro_batches(<true, 100>|.*with [A-Za-z]+=true, [A-Za-z]+=100\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048, .accumulation = 100},
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::host},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
