// ERRORS: 1
// EXPECT: error: .*invalid policy: a sentence of batch\.length tokens must fit into one packed micro-batch\. Set batch\.packed_tokens >= batch\.length, or lower batch\.length\.
// EXPECT: rule::the_longest_sentence_fits_a_packed_batch<(64, 128>|.*PackedTokens=64, Length=128\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 64},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
