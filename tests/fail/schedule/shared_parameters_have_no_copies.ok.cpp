// The twin of shared_parameters_have_no_copies.cpp: it compiles.
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .weights = ctrain::WeightLayout::plain,
                                         .parallel = {.data = 2},
                                         .zero = {.stage = 3},
                                         .device = ctrain::host_memory(64 * ctrain::GiB)};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
