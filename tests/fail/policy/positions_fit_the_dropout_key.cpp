// ERRORS: 1
// EXPECT: error: .*invalid policy: a token's dropout identity has 9 bits for its position\. Set model\.positions between 1 and 512\.
// EXPECT: rule::positions_fit_the_dropout_key<(1024>|.*Positions=1024\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .model = {.positions = 1024}, .batch = {.packed_tokens = 2048}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
