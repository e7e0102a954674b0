// How the scale of a loss moves: sequences worked out from the sources of DeepSpeed and torch.
#include <ctrain/backend/math/loss_scale.hpp>
#include <ctrain/policy/presets.hpp>

#include <catch2/catch.hpp>

#include <array>

namespace {

using namespace ctrain;

template <std::size_t N>
constexpr std::array<float, N> scales(const LossScale& by, const int (&overflows)[N]) {
  std::array<float, N> result{};
  LossScaleState at = first_loss_scale(by);
  for (std::size_t i = 0; i < N; ++i) {
    at = loss_scale_after(at, by, overflows[i] != 0);
    result[i] = at.scale;
  }
  return result;
}

constexpr LossScale of(LossScaleRule rule, int hysteresis = 2, float minimum = 1) {
  return {.rule = rule, .minimum = minimum, .window = 3, .hysteresis = hysteresis};
}
constexpr int pattern[] = {1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0};
using Scales = std::array<float, 12>;

static_assert(scales(of(LossScaleRule::zero_0_6), pattern) == Scales{65536, 32768, 16384, 16384,
                                                                     16384, 32768, 32768, 32768,
                                                                     32768, 32768, 65536, 65536});
static_assert(scales(of(LossScaleRule::zero), pattern) == Scales{65536, 32768, 16384, 16384, 16384,
                                                                 16384, 32768, 32768, 32768, 32768,
                                                                 32768, 65536});
static_assert(scales(of(LossScaleRule::stage_0), pattern) ==
              Scales{32768, 16384, 8192, 8192, 8192, 8192, 16384, 8192, 8192, 8192, 8192, 16384});
// torch: three good steps in a row double, and then three more.
static_assert(scales(of(LossScaleRule::grad_scaler, 1, 0), pattern) ==
              Scales{32768, 16384, 8192, 8192, 8192, 16384, 16384, 8192, 8192, 8192, 16384, 16384});
static_assert(scales(of(LossScaleRule::fixed), pattern) == Scales{65536, 65536, 65536, 65536, 65536,
                                                                  65536, 65536, 65536, 65536, 65536,
                                                                  65536, 65536});

// With hysteresis 1 ZeRO lowers at every overflow, as stage 0 does.
static_assert(scales(of(LossScaleRule::zero, 1), pattern) ==
              scales(of(LossScaleRule::stage_0), pattern));

// The counter of overflows is not filled up by a single good step.
constexpr int apart[] = {1, 0, 1, 0};
static_assert(scales(of(LossScaleRule::zero), apart) ==
              std::array{65536.f, 65536.f, 32768.f, 32768.f});

// Without an overflow the first rise comes after window - 1 steps in v0.6.1 (its last overflow is
// taken to be -1), after window later on.
constexpr int good[] = {0, 0, 0, 0, 0, 0, 0};
static_assert(scales(of(LossScaleRule::zero_0_6), good)[2] == 131072);
static_assert(scales(of(LossScaleRule::zero), good)[2] == 65536 &&
              scales(of(LossScaleRule::zero), good)[3] == 131072);

// From 2^32 the scale comes down one power a step, once hysteresis is used up; from 2^16 at once
// where there is none.
constexpr float after_overflows(const LossScale& by, int count) {
  LossScaleState at = first_loss_scale(by);
  for (int i = 0; i < count; ++i) at = loss_scale_after(at, by, true);
  return at.scale;
}
static_assert(after_overflows(deepspeed_zero_0_6_scale, 17) == 65536);
static_assert(after_overflows(grad_scaler, 4) == 4096);

// Bounds: DeepSpeed's minimum; a float's range.
static_assert(after_overflows(deepspeed_zero_0_6_scale, 100) == 1);
static_assert(after_overflows(grad_scaler, 500) > 0);
constexpr LossScaleState after_good_steps(const LossScale& by, int count) {
  LossScaleState at = first_loss_scale(by);
  for (int i = 0; i < count; ++i) at = loss_scale_after(at, by, false);
  return at;
}
static_assert(after_good_steps({.rule = LossScaleRule::grad_scaler, .window = 1}, 1000).scale ==
              0x1p127f);

// Who gives up, and when.
constexpr LossScaleState at_minimum{.scale = 1};
static_assert(an_overflow_is_final(at_minimum, deepspeed_zero_scale));
static_assert(!an_overflow_is_final(at_minimum, deepspeed_zero_0_6_scale));
static_assert(!an_overflow_is_final({.scale = 2}, deepspeed_zero_scale));
static_assert(!an_overflow_is_final(at_minimum, grad_scaler));
static_assert(an_overflow_is_final({.scale = 1024}, fixed_scale(1024)));
static_assert(an_overflow_is_final(first_loss_scale({}), {}));

// bf16 and fp32: a scale of 1 that stays.
static_assert(first_loss_scale({}).scale == 1 && after_good_steps({}, 5000).scale == 1);

}  // namespace

TEST_CASE("backend.loss_scale.counts_skipped_steps_apart_from_steps") {
  LossScaleState at = first_loss_scale(grad_scaler);
  for (const int overflow : pattern) at = loss_scale_after(at, grad_scaler, overflow != 0);
  CHECK(at.step == 12);
  CHECK(at.skipped_steps == 4);
}

TEST_CASE("backend.loss_scale.stays_a_power_of_two") {
  for (const LossScale& by : {grad_scaler, deepspeed_zero_0_6_scale, deepspeed_zero_scale,
                              deepspeed_stage_0_scale, fixed_scale(256)}) {
    LossScaleState at = first_loss_scale(by);
    for (int i = 0; i < 20000; ++i) {
      at = loss_scale_after(at, by, i * 7919 % 1000 == 0);
      CHECK((bits_as<std::uint32_t>(at.scale) & 0x7fffffu) == 0);
    }
  }
}
