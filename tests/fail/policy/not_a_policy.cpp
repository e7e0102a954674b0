// ERRORS: 1
// EXPECT: error: .*invalid policy: a policy is named by a struct\. Give the struct a member, static constexpr ctrain::Policy policy\{\.\.\.\};
#include <ctrain/check.hpp>

struct Nothing {
  static constexpr ctrain::Batch policy{.packed_tokens = 2048};
};
static_assert(ctrain::check<Nothing>());
