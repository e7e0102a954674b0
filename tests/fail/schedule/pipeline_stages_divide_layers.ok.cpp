// The twin of pipeline_stages_divide_layers.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048}, .parallel = {.pipeline = 6}, .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
