// ERRORS: 1
// EXPECT: error: .*invalid policy: a packed micro-batch cannot hold that many sentences\. Set batch\.sentences between 1 and batch\.packed_tokens / 2, or 0 for the default bound of one per 16 tokens\.
// EXPECT: rule::packed_sentences_fit_their_tokens<(512, 400>|.*PackedTokens=512, Sentences=400\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 512, .sentences = 400},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
