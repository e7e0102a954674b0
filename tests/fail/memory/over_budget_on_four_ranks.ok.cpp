// The twin of over_budget_on_four_ranks.cpp: what its message names is done.
#include <ctrain/check.hpp>

struct TooLarge {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 4096},
                                         .precision = {ctrain::Compute::bf16},
                                         .parallel = {.data = 4},
                                         .zero = {.stage = 1},
                                         .device = ctrain::gpu_24gb};
};
static_assert(ctrain::check<TooLarge>());
