// ERRORS: 1
// EXPECT: error: .*invalid policy: the batch is empty\. Set batch\.packed_tokens \(packed, the faster\) or batch\.sentences \(padded to batch\.length\) to at least 1\.
// EXPECT: rule::a_padded_batch_has_sentences<(0, 0>|.*PackedTokens=0, Sentences=0\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.length = 64}, .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
