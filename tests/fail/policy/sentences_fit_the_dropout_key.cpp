// ERRORS: 1
// EXPECT: error: .*invalid policy: a token's dropout identity has 23 bits for its sentence within an optimizer step\. Make the sentences of a micro-batch times batch\.accumulation times parallel\.data at most 8388608\.
// EXPECT: rule::sentences_fit_the_dropout_key<(128, 100000>|.*Sentences=128, MicroBatches=100000\])
#include <ctrain/check.hpp>

struct Broken {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 100000},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Broken>());
