// The twin of early_norm.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/schedule.hpp>

struct Twice {
  static constexpr ctrain::Policy policy{.model = ctrain::megatron_bert_mini,
                                         .batch = {.packed_tokens = 512},
                                         .parallel = {.data = 2},
                                         .zero = {.bucket = 8 * ctrain::MiB},
                                         .device = ctrain::host_memory(2 * ctrain::GiB)};
};

static_assert(ctrain::check_schedule<Twice>());
