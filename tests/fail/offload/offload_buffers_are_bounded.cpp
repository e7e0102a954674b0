// No buffer at all.
// ERRORS: 1
// EXPECT: error: .*invalid policy: buffers of a stream have a number and a size
// EXPECT: offload_buffers_are_bounded(<0, true>|.*with [A-Za-z]+=0, [A-Za-z]+=true\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .offload = {.optimizer = ctrain::OffloadTo::host,
                                                     .parameters = ctrain::OffloadTo::host,
                                                     .buffers = 0},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
