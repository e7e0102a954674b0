// Kernels of the update against the reference, and the decisions that a device makes alone.
#pragma once

#include <ctrain/trainer/decision.hpp>

#include "emulated.hpp"

namespace emulation {

using namespace ctrain;

/// Bits equal the reference's: the sum is exact.
template <class G> void sum_of_squares_agrees() {
  for (const int count : {1, 15, 2047, 2049, 65536, 65536 + 777})
    for (const int shift : {0, 1}) {
      oracle::Random random(8);
      Buffer<G> values(random.values<G>(std::size_t(count)), shift);
      const auto sum = [&](auto& backend) {
        ExactSum result;
        backend.run(SumOfSquaresOf<G>{&result, values.data(), count});
        return result;
      };
      CpuReference reference;
      Emulated emulated;
      CHECK(sum(emulated) == sum(reference));
      kernels_run().merge(emulated.stream.names);
    }
}

template <class G = float> AdamWUpdateOf<G> adamw_call(OptimizerKind kind) {
  AdamWUpdateOf<G> call;
  call.kind = kind;
  call.learning_rate = 1e-3f, call.beta1 = 0.9f, call.beta2 = 0.999f, call.epsilon = 1e-8f;
  call.weight_decay = 0.1f, call.gradient_scale = 0.5f, call.t = 3;
  return call;
}

template <class G> void adamw_agrees() {
  for (const OptimizerKind kind :
       {OptimizerKind::adamw_torch, OptimizerKind::adamw_hugging_face, OptimizerKind::adam_l2})
    for (const int count : {1, 6, 1030})
      for (const int shift : {0, 1}) {
        oracle::Random random(9);
        const auto size = std::size_t(count);
        const Floats w = random.values<float>(size), m = random.values<float>(size);
        Floats v = random.values<float>(size);
        for (float& x : v) x *= x;
        Buffer<G> g(random.values<G>(size), shift);
        agrees(
            [&](auto& backend) {
              Buffer<float> weight(w, shift), first(m, shift), second(v, shift);
              AdamWUpdateOf<G> call = adamw_call<G>(kind);
              call.weight = weight.data(), call.first_moment = first.data();
              call.second_moment = second.data(), call.gradient = g.data(), call.count = count;
              backend.run(call);
              return std::vector<Floats>{weight.floats(), first.floats(), second.floats()};
            },
            {1e-6, 1e-6, 1e-6});
      }
}

/// The copy that products read is what became of the weights, part by part of a matrix.
template <class T> void adamw_into_a_copy_agrees() {
  for (const int in : {24, 5}) {
    oracle::Random random(14);
    const int out = 7, rows_before = 2;
    const auto size = std::size_t(out * in);
    const Floats w = random.values<float>(size), m = random.values<float>(size),
                 g = random.values<float>(size);
    Floats v = random.values<float>(size);
    for (float& x : v) x *= x;
    agrees(
        [&](auto& backend) {
          Buffer<float> weight(w), first(m), second(v), gradient(g);
          Buffer<T> copy(size);
          for (const RowRange rows : {RowRange{0, rows_before}, {rows_before, out - rows_before}}) {
            AdamWUpdate call = adamw_call(OptimizerKind::adamw_torch);
            const int at = rows.first * in;
            call.weight = weight.data() + at, call.first_moment = first.data() + at;
            call.second_moment = second.data() + at, call.gradient = gradient.data() + at;
            call.count = std::int64_t{rows.count} * in;
            backend.run(AdamWUpdateAndPrepare<T, float>{
                call, {copy.data(), nullptr, weight.data(), out, in}, rows});
          }
          std::vector<T> rounded;
          for (const float x : weight.values()) rounded.push_back(T(x));
          CHECK(oracle::floats(rounded) == copy.floats());
          return std::vector<Floats>{weight.floats(), first.floats(), second.floats()};
        },
        {1e-6, 1e-6, 1e-6});
  }
}

/// Sentences without a label count as tokens only, and none is lost of what stood there.
inline void losses_are_counted() {
  for (const int lengths : {6, 0}) {
    oracle::Random random(15);
    oracle::OwnedBatch batch = oracle::random_batch(random, 5, 6, 3, false);
    Floats losses = random.values<float>(5);
    std::vector<std::int32_t> predictions(batch.labels.begin(), batch.labels.end());
    batch.labels[1] = -1, predictions[2] += 1;
    if (lengths == 0) std::fill(batch.lengths.begin(), batch.lengths.end(), 0);
    agrees(
        [&](auto& backend) {
          StepResult r{.loss_sum = 1.5, .sentences = 2};
          backend.run(RunOnce<CountLosses>{{&r, batch.view(), losses.data(), predictions.data()}});
          return std::vector<Floats>{{float(r.loss_sum), float(r.sentences), float(r.correct),
                                      float(r.tokens), float(r.rows), float(r.attended),
                                      float(r.micro_batches)}};
        },
        {0});
  }
}

/// A step decides in memory what a host would: mean and clip; a step that is not finite changes
/// nothing but the loss scale, which moves by the rule that the host's tests know, and one that no
/// lower scale mends changes nothing at all from then on.
inline void decisions_agree() {
  Emulated backend;
  StepState state;
  StepNumbers numbers{.learning_rate = 1e-3, .weight_decay = 0.1f};
  Record record;
  const auto decide = [&](double squares, const LossScale& by, float clip, double loss = 1) {
    record = {};
    record.squares.add(squares);
    record.squares.carry();
    record.result.loss_sum = loss, record.result.sentences = 4;
    numbers.clip = clip;
    backend.run(RunOnce<DecideStep>{{&state, &numbers, &record, 1, by, {}, {}, 0}});
    return state.plain.adam.gradient_scale;
  };
  CHECK(decide(4.0, {}, 0.0f) == 0.25f);
  CHECK(state.total.gradient_norm == 0.5);
  CHECK(decide(4.0, {}, 1.0f) == 0.25f);  // norm 0.5: no clipping
  CHECK(decide(64.0, {}, 1.0f) == Approx(0.25 * 0.5));
  CHECK(state.decaying.adam.decay == Approx(1e-4));
  CHECK(state.plain.adam.decay == 0);
  constexpr LossScale by{.rule = LossScaleRule::grad_scaler, .initial = 1024, .window = 2};
  state.loss_scale = first_loss_scale(by);
  CHECK(decide(64.0 * 1024 * 1024, by, 1.0f) == Approx(0.25 * 0.5 / 1024));
  CHECK(state.loss_scale.skipped_steps == 0);

  Floats weight{1, 2, 3, 4, 5}, first = weight, second = weight, gradient(5, NAN);
  AdamWUpdate call = adamw_call(OptimizerKind::adamw_torch);
  call.weight = weight.data(), call.first_moment = first.data();
  call.second_moment = second.data(), call.gradient = gradient.data(), call.count = 5;
  call.decided = &state.plain.adam;
  const auto changes_nothing = [&](auto& on) {
    on.run(call);
    CHECK(weight == Floats{1, 2, 3, 4, 5});
    CHECK(second == weight);
  };
  CpuReference reference;
  for (const double bad : {std::nan(""), double(INFINITY)}) {
    state = {.loss_scale = first_loss_scale(by)};
    CHECK(decide(bad, by, 1.0f) == 0.0f);
    CHECK(state.total.skipped);
    CHECK(state.failed == 0);
    CHECK(state.loss_scale == loss_scale_after(first_loss_scale(by), by, true));
    changes_nothing(backend), changes_nothing(reference);
  }
  decide(1.0, by, 0.0f);
  CHECK(state.loss_scale.scale == 512);
  decide(1.0, by, 0.0f);
  CHECK(state.loss_scale.scale == 1024);

  const LossScaleState before = state.loss_scale;
  CHECK(decide(1.0, by, 0.0f, NAN) == 0.0f);
  CHECK(state.failed == 1);
  CHECK(decide(1.0, by, 0.0f) == 0.0f);
  CHECK(state.loss_scale == before);
  changes_nothing(backend), changes_nothing(reference);
  state = {};
  CHECK(decide(std::nan(""), {}, 0.0f) == 0.0f);
  CHECK(state.failed == 1);
  kernels_run().merge(backend.stream.names);
}

}  // namespace emulation
