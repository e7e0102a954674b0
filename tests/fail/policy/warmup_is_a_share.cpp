// ERRORS: 1
// EXPECT: error: .*invalid policy: warm-up is a share of all steps\. Set schedule\.warmup within \[0, 1\]\.
// EXPECT: rule::warmup_is_a_share<(65000000>|.*WarmupMillionths=65000000\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048}, .schedule = {.warmup = 65}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
