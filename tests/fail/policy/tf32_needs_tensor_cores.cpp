// ERRORS: 1
// EXPECT: error: .*invalid policy: TF32 is how a card's tensor cores read fp32\. Set precision\.compute = Compute::fp32 on a host
// EXPECT: rule::tf32_needs_tensor_cores<(true, false>|.*DeviceIsACard=false\])
#include <ctrain/check.hpp>

struct OnAHost {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 1024},
                                         .precision = {.compute = ctrain::Compute::tf32},
                                         .device = ctrain::host_memory(64 * ctrain::GiB)};
};
static_assert(ctrain::check<OnAHost>());
