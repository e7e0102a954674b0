/// \file  The learning rate of every optimizer step, as the original script counts it.   floor 6: trainer
#pragma once

#include <ctrain/core/decimal.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/policy/policy.hpp>

#include <cmath>
#include <cstdint>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// How the original script counts the steps of a run; its generations differ. `whole_batches`
/// (March 2022): epochs x batches of one process / (ranks x accumulation), warm-up steps rounded
/// down. `samples` (November 2022): samples x epochs / (batch x ranks), then / accumulation,
/// warm-up not rounded. Its loop really runs whole batches, so the last few steps may lie beyond
/// the end.
enum class StepCounting : std::uint8_t { whole_batches, samples };

/// What a run repeats, in the words of the flags.
struct RunSize {
  std::int64_t samples = 0;       // training pairs
  std::int64_t batch = 1;         // pairs of one rank in one micro-batch (--train_batchsize)
  std::int64_t ranks = 1;         // data-parallel processes
  std::int64_t accumulation = 1;  // micro-batches in one optimizer step
  std::int64_t epochs = 1;        // -1: no bound, then max_steps counts
  std::int64_t max_steps = -1;    // -1: no bound
};

/// Steps of a schedule, as the script hands them to its scheduler.
struct ScheduleSteps {
  std::int64_t total = 0;
  double warmup = 0;

  friend constexpr bool operator==(const ScheduleSteps&, const ScheduleSteps&) = default;
};

/// A schedule with its numbers filled in. `at(t)` is the rate of the step after t completed ones,
/// so that the first update has rate 0 wherever there is a warm-up.
struct LearningRate {
  double base = 1e-5;
  ScheduleSteps steps{};
  Decay decay = Decay::linear;
  double power = 1;  // polynomial only
  double end = 0;    // polynomial only

  constexpr double at(std::int64_t completed) const {
    const double t = double(completed), total = double(steps.total), warmup = steps.warmup;
    if (t < warmup) return base * (t / (warmup > 1 ? warmup : 1));
    if (decay == Decay::polynomial) return polynomial(t, total, warmup);
    const double span = total - warmup;
    return t < total ? base * ((total - t) / (span > 1 ? span : 1)) : 0;
  }

 private:
  constexpr double polynomial(double t, double total, double warmup) const {
    if (t >= total) return end;
    const double remaining = 1 - (t - warmup) / (total - warmup);
    return (base - end) * (power == 1 ? remaining : std::pow(remaining, power)) + end;
  }
};

// functions --------------------------------------------------------------------------------------

/// Total and warm-up steps of a run; `warmup` is a share of the total.
/// Throws Error where neither epochs nor max_steps bounds the run.
constexpr ScheduleSteps schedule_steps(StepCounting counting, const RunSize& run, double warmup) {
  if (run.epochs < 0 && run.max_steps < 0)
    throw Error("learning rate",
                "the schedule needs an end, but --max_epochs and --max_steps are both -1",
                "Set one of them");
  std::int64_t total = run.max_steps;
  if (run.epochs >= 0 && counting == StepCounting::whole_batches)
    total =
        run.epochs * ((run.samples + run.batch - 1) / run.batch) / (run.ranks * run.accumulation);
  if (run.epochs >= 0 && counting == StepCounting::samples)
    total = run.samples * run.epochs / (run.batch * run.ranks) / run.accumulation;
  const double share = double(total) * warmup;
  return {total, counting == StepCounting::whole_batches ? double(std::int64_t(share)) : share};
}

/// Throws Error where a polynomial decay would have to rise.
constexpr const LearningRate& require_decay(const LearningRate& rate) {
  if (rate.decay == Decay::polynomial && rate.base <= rate.end)
    throw Error("flag --learning_rate", "the rate must be above the end of its polynomial decay",
                "Raise it, or lower .schedule.end in the policy and recompile");
  return rate;
}

}  // namespace ctrain
