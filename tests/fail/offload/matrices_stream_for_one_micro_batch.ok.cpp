// The twin of matrices_stream_for_one_micro_batch.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .offload = {.optimizer = ctrain::OffloadTo::host,
                                                     .parameters = ctrain::OffloadTo::host,
                                                     .unit = ctrain::StreamBy::matrix},
                                         .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
