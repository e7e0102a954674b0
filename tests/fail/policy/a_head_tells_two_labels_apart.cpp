// ERRORS: 1
// EXPECT: error: .*invalid policy: classification needs at least two labels\. Set model\.labels >= 2\.
// EXPECT: rule::a_head_tells_two_labels_apart<(1>|.*Labels=1\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .model = {.labels = 1}, .batch = {.packed_tokens = 2048}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
