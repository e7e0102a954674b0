// On a host, weights have packed copies unless the policy says otherwise.
// ERRORS: 1
// EXPECT: error: .*invalid policy: ZeRO stage 3 keeps a share of the weights, a
// EXPECT: shared_parameters_have_no_copies(<3, 2, true>|.*with [A-Za-z]+=3, [A-Za-z]+=2, [A-Za-z]+=true\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Split {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .parallel = {.data = 2},
                                         .zero = {.stage = 3},
                                         .device = ctrain::host_memory(64 * ctrain::GiB)};
};

static_assert(sizeof(ctrain::CheckPolicy<Split>));
