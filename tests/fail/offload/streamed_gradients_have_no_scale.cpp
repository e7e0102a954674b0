// A step in fp16 may have to be taken back.
// ERRORS: 1
// EXPECT: error: .*invalid policy: a step that streams cannot be taken back
// EXPECT: streamed_gradients_have_no_scale(<true, true>|.*with [A-Za-z0-9]+=true, [A-Za-z0-9]+=true\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

struct Streams {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .precision = {.compute = ctrain::Compute::fp16, .loss_scale = ctrain::grad_scaler},
      .offload = {.optimizer = ctrain::OffloadTo::host, .parameters = ctrain::OffloadTo::host},
      .device = ctrain::a100_40gb};
};

static_assert(sizeof(ctrain::CheckPolicy<Streams>));
