// ERRORS: 1
// EXPECT: error: .*invalid policy: a host step needs threads to work\. Set device\.workers between 1 and 1024 \(the second argument of host_memory\)\.
// EXPECT: rule::a_host_has_workers<(true, 0>|.*Host=true, Workers=0\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .device = ctrain::host_memory(64 * ctrain::GiB, 0)};
};
static_assert(ctrain::check<Broken>());
