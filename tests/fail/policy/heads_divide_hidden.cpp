// ERRORS: 1
// EXPECT: error: .*invalid policy: the hidden size is split evenly over the attention heads\. Make model\.hidden a multiple of model\.heads\.
// EXPECT: rule::heads_divide_hidden<(2048, 7>|.*Hidden=2048, Heads=7\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .model = {.heads = 7}, .batch = {.packed_tokens = 2048}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
