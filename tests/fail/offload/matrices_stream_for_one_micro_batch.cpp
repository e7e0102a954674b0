// Two micro-batches cannot wait between two matrices.
// ERRORS: 1
// EXPECT: error: .*invalid policy: matrices come to the device one by one
// EXPECT: matrices_stream_for_one_micro_batch(<.*, 2>|.*with .*=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 2},
                                         .offload = {.optimizer = ctrain::OffloadTo::host,
                                                     .parameters = ctrain::OffloadTo::host,
                                                     .unit = ctrain::StreamBy::matrix},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
