// ERRORS: 1
// EXPECT: error: .*invalid policy: the second text of a pair has token type 1\. Set model\.token_types between 2 and 65536\.
// EXPECT: rule::a_pair_has_two_token_types<(1>|.*TokenTypes=1\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{
      .model = {.token_types = 1}, .batch = {.packed_tokens = 2048}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
