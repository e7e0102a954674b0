/// \file  The scale of a loss in fp16: which steps are skipped, and how the scale moves.   floor 5: backend
#pragma once

#include <ctrain/core/config.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>

namespace ctrain {

/// What a run carries from step to step, on a host or on a device. A skipped step changes nothing
/// else: steps() of the optimizer are `step` - `skipped_steps`.
struct LossScaleState {
  float scale = 1;
  std::int32_t step = 0;            // seen so far, skipped ones included
  std::int32_t last_overflow = -1;  // the step of it
  std::int32_t good_steps = 0;      // since the scale last changed or a step was skipped
  std::int32_t overflows_left = 1;  // the last of which lowers the scale
  std::int32_t skipped_steps = 0;

  friend constexpr bool operator==(const LossScaleState&, const LossScaleState&) = default;
};

CTRAIN_HOST_DEVICE constexpr LossScaleState first_loss_scale(const LossScale& by) {
  return {.scale = by.rule == LossScaleRule::none ? 1.0f : by.initial,
          .overflows_left = by.hysteresis};
}

/// Whether an overflow at this scale ends the run: later versions of DeepSpeed raise an exception
/// where the scale cannot be lowered any more, and a scale that stays has nothing to try.
CTRAIN_HOST_DEVICE constexpr bool an_overflow_is_final(const LossScaleState& at,
                                                       const LossScale& by) {
  if (by.rule == LossScaleRule::none || by.rule == LossScaleRule::fixed) return true;
  return by.rule == LossScaleRule::zero && at.scale <= by.minimum;
}

/// Whether a good step `at.step` raises the scale.
CTRAIN_HOST_DEVICE constexpr bool raises_loss_scale(const LossScaleState& at, const LossScale& by) {
  const std::int32_t since = at.step - at.last_overflow;
  switch (by.rule) {
    case LossScaleRule::grad_scaler:
      return at.good_steps + 1 == by.window;
    case LossScaleRule::zero_0_6:
      return since % by.window == 0;
    case LossScaleRule::zero:
    case LossScaleRule::stage_0:
      return since > 1 && (since - 1) % by.window == 0;
    default:
      return false;
  }
}

/// The state after a step whose gradient was finite, or overflowed.
CTRAIN_HOST_DEVICE constexpr LossScaleState loss_scale_after(LossScaleState at, const LossScale& by,
                                                             bool overflow) {
  constexpr float most = 1.7014118e38f, least = 1.1754944e-38f;  // 2^127 and 2^-126
  const bool has_hysteresis = by.rule == LossScaleRule::zero_0_6 || by.rule == LossScaleRule::zero;
  const bool moves = by.rule != LossScaleRule::none && by.rule != LossScaleRule::fixed;
  if (overflow) {
    const float floor = by.minimum > least ? by.minimum : least;
    const float lower = at.scale / by.factor;
    if (has_hysteresis && at.overflows_left > 1)
      --at.overflows_left;
    else if (moves)
      at.scale = lower > floor ? lower : floor;
    at.last_overflow = at.step;
    at.good_steps = 0;
    ++at.skipped_steps;
  } else if (moves && raises_loss_scale(at, by)) {
    if (at.scale <= most / by.factor) at.scale *= by.factor;
    at.overflows_left = by.hysteresis;
    at.good_steps = 0;
  } else {
    ++at.good_steps;
  }
  ++at.step;
  return at;
}

}  // namespace ctrain
