/// \file  How many batches an epoch has, and after which of them validation runs.   floor 6: trainer
#pragma once

#include <ctrain/core/error.hpp>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// `--val_check_interval`. With a point in it a share of the epoch's batches, in (0, 1]; without, a
/// number of batches: `1.0` is once an epoch, `1` is after every batch.
struct ValidationInterval {
  double share = 1.0;
  std::int64_t batches = 0;  // above 0: this counts instead of the share

  friend constexpr bool operator==(const ValidationInterval&, const ValidationInterval&) = default;
};

/// What one epoch of one rank consists of.
struct EpochPlan {
  std::int64_t train_batches = 0;
  std::int64_t validation_batches = 0;
  std::int64_t period = 1;  // training batches from one validation to the next

  /// Batches that an epoch's progress counts: training, and every validation that will run in it.
  constexpr std::int64_t total() const {
    return train_batches + validation_batches * (train_batches / period);
  }
  /// Whether validation follows the training batch with this index (from 0, within the epoch). The
  /// batches after the last multiple of the period are not validated.
  constexpr bool validates_after(std::int64_t batch_index) const {
    return (batch_index + 1) % period == 0;
  }
  /// Optimizer steps of the epoch; the last takes what remains.
  constexpr std::int64_t steps(std::int64_t accumulation) const {
    return (train_batches + accumulation - 1) / accumulation;
  }
};

// functions --------------------------------------------------------------------------------------

/// Batches of one rank. Ranks take equal shares of the samples (the last ones repeat some), and the
/// last batch may be short.
constexpr std::int64_t batches_per_epoch(std::int64_t samples, std::int64_t batch,
                                         std::int64_t ranks = 1) {
  const std::int64_t share = (samples + ranks - 1) / ranks;
  return (share + batch - 1) / batch;
}

/// Reads `text`; `place` names its origin in errors ("flag --val_check_interval").
inline ValidationInterval parse_validation_interval(std::string_view text,
                                                    const std::string& place) {
  const char *begin = text.data(), *end = begin + text.size();
  ValidationInterval result;
  const bool is_share = text.find('.') != text.npos;
  const auto read = is_share ? std::from_chars(begin, end, result.share)
                             : std::from_chars(begin, end, result.batches);
  if (read.ec != std::errc{} || read.ptr != end)
    throw Error(place, "'" + std::string(text) + "' is no number",
                "Give a share of an epoch such as 0.25, or a number of batches such as 1000");
  if (is_share && !(result.share > 0 && result.share <= 1))
    throw Error(place, std::string(text) + " is no share of an epoch",
                "Give a share above 0.0 and up to 1.0, or a number of batches without a point");
  if (!is_share && result.batches < 1)
    throw Error(place, std::string(text) + " batches", "Give a number of batches from 1 up");
  return result;
}

/// Training batches from one validation to the next.
/// Throws Error where the interval is longer than an epoch, so that validation would never run.
constexpr std::int64_t validation_period(const ValidationInterval& interval,
                                         std::int64_t train_batches) {
  if (interval.batches == 0) {
    const auto period = std::int64_t(double(train_batches) * interval.share);
    return period < 1 ? 1 : period;
  }
  if (interval.batches > train_batches)
    throw Error("flag --val_check_interval",
                std::to_string(interval.batches) + " batches, but an epoch has only " +
                    std::to_string(train_batches),
                "Give at most that many, or 1.0 to validate once an epoch");
  return interval.batches;
}

/// Whether a checkpoint with neither trigger of its own is written at the end of a training epoch
/// (else after each validation), as Lightning decides it: 1 and 1.0 are the same number there.
constexpr bool saves_on_train_epoch_end(const ValidationInterval& interval) {
  return interval.batches > 0 ? interval.batches == 1 : interval.share == 1.0;
}

/// Validation batches to try before training; -1 asks for all of them.
constexpr std::int64_t sanity_batches(std::int64_t requested, std::int64_t validation_batches) {
  return requested < 0 || requested > validation_batches ? validation_batches : requested;
}

/// Epochs after which to stop; -1: never. `max_epochs` 0 is not "unset": nothing is trained.
constexpr std::int64_t epoch_limit(bool max_epochs_given, std::int64_t max_epochs,
                                   std::int64_t max_steps) {
  if (max_epochs_given) return max_epochs;
  return max_steps >= 0 ? -1 : 1000;
}

// proofs -----------------------------------------------------------------------------------------

// AFQMC (34,334 training and 4,316 validation pairs), validation in batches of 32 every 1000 steps.
static_assert(batches_per_epoch(34334, 4) == 8584 && batches_per_epoch(4316, 32) == 135);
static_assert(EpochPlan{8584, 135, 1000}.total() == 9664);    // 4 pairs on one rank
static_assert(EpochPlan{4292, 68, 1000}.total() == 4564);     // 4 pairs on each of two
static_assert(EpochPlan{34334, 135, 1000}.total() == 38924);  // 1 pair on one rank

}  // namespace ctrain
