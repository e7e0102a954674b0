// A host would prepare copies of weights that are gone after their use.
// ERRORS: 1
// EXPECT: error: .*invalid policy: weights that stream are read where they land
// EXPECT: streamed_weights_have_no_copies(<true, true, .*>|.*with .*=true, .*=true, .*\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::host},
      .device = ctrain::host_memory(16 * ctrain::GiB)};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
