/// \file  What a step counts and decides where it computes: losses, norm, clip, loss scale.   floor 6: trainer
#pragma once

#include <ctrain/backend/batch.hpp>
#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/math/adamw.hpp>
#include <ctrain/backend/math/loss_scale.hpp>
#include <ctrain/backend/math/row_programs.hpp>
#include <ctrain/core/config.hpp>
#include <ctrain/trainer/record.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace ctrain {

/// The numbers of an update: those of Adam's kinds, and LAMB's.
struct Decided {
  AdamWFactors adam;
  LambStep lamb;
};

/// What a step decides, and what it leaves for the next one.
struct StepState {
  LossScaleState loss_scale;
  std::int32_t failed = 0;  // a loss or a gradient is not finite, and no lower scale mends that:
                            // nothing changes until a host has seen it
  StepResult total{};       // of all ranks
  Decided plain{}, decaying{};  // of parameters without and with weight decay
};

static_assert(sizeof(StepState) <= Split::state && sizeof(StepNumbers) <= Split::numbers);

// Functions of RunOnce.

/// Adds the losses of a micro-batch, in the order of its sentences, to a rank's.
struct CountLosses {
  StepResult* to;
  BatchView batch;
  const float* losses;
  const std::int32_t* predictions;

  CTRAIN_HOST_DEVICE void operator()() const {
    StepResult sum = *to;
    bool is_empty = true;
    for (int s = 0; s < batch.sentences; ++s) {
      const std::int64_t length = batch.lengths[s];
      is_empty = is_empty && length == 0;
      sum.tokens += length;
      sum.attended += length * (batch.first_row[s + 1] - batch.first_row[s]);
      if (batch.labels[s] < 0) continue;
      sum.loss_sum += double(losses[s]);
      sum.correct += predictions[s] == batch.labels[s];
      ++sum.sentences;
    }
    if (is_empty) return;
    sum.rows += batch.rows;
    ++sum.micro_batches;
    *to = sum;
  }
};

/// Adds up all ranks' records: norm, clip, and whether there is anything to update with.
struct DecideStep {
  StepState* state;
  const StepNumbers* numbers;
  const Record* records;  // Split::record bytes apart
  int ranks;
  LossScale by;
  AdamWNumbers optimizer;  // what is the same in each step
  Compat compat;
  int own_gradients;  // data ranks whose gradients stay apart, and stand for those of all; 0: they
                      // are summed

  CTRAIN_HOST_DEVICE void operator()() const {
    StepResult total;
    ExactSum squares;
    double norms = 0;  // of what each rank has, where they have not been summed
    for (int rank = 0; rank < ranks; ++rank) {
      squares.add(record(rank).squares);
      norms += std::sqrt(record(rank).squares.value());
      total += record(rank).result;
    }
    // gradients are sums over sentences so far, times the loss scale
    double mean = 1.0 / (double(total.sentences) * double(state->loss_scale.scale));
    total.gradient_norm = (own_gradients > 0 ? norms : std::sqrt(squares.value())) * mean;
    if (own_gradients > 0) mean *= own_gradients;
    const bool finite = is_finite(total.gradient_norm);
    total.skipped = !finite;
    if (!is_finite(total.loss_sum) || (!finite && an_overflow_is_final(state->loss_scale, by)))
      state->failed = 1;
    state->total = total;
    if (state->failed == 0) state->loss_scale = loss_scale_after(state->loss_scale, by, !finite);
    decide_factors(finite && state->failed == 0, mean);
  }

 private:
  CTRAIN_HOST_DEVICE const Record& record(int rank) const {
    return *reinterpret_cast<const Record*>(reinterpret_cast<const std::byte*>(records) +
                                            rank * Split::record);
  }
  CTRAIN_HOST_DEVICE static bool is_finite(double x) { return x - x == 0; }

  CTRAIN_HOST_DEVICE Decided decided(const AdamWNumbers& n) const {
    if (n.kind != OptimizerKind::lamb) return {adamw_factors(n), {}};
    return {adamw_factors(n), lamb_step(n, compat)};
  }
  CTRAIN_HOST_DEVICE void decide_factors(bool updates, double mean) const {
    const double bound = numbers->clip / (state->total.gradient_norm + 1e-6);
    const double clip = numbers->clip > 0 && bound < 1.0 ? bound : 1.0;
    AdamWNumbers n = optimizer;
    n.learning_rate = double(float(numbers->learning_rate));
    n.gradient_scale = updates ? float(mean * clip) : 0.0f;
    n.t = numbers->step - state->loss_scale.skipped_steps + 1;
    state->plain = decided(n);
    n.weight_decay = numbers->weight_decay;
    state->decaying = decided(n);
  }
};

}  // namespace ctrain
