// ERRORS: 1
// EXPECT: error: .*invalid policy: no memory is named for the plan to fit into\. Set device, for example \.device = ctrain::host_memory\(8 \* ctrain::GiB\) or \.device = ctrain::a100_40gb\.
// EXPECT: rule::the_device_has_memory<(false>|.*HasMemory=false\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048}};
};
static_assert(ctrain::check<Broken>());
