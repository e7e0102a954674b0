/// \file  Device kernels of the update: gradient norm, clip factor, loss scale, AdamW.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/math/adamw.hpp>
#include <ctrain/backend/math/loss_scale.hpp>
#include <ctrain/backend/math/sum_of_squares.hpp>

#include <cmath>

namespace ctrain::cuda {

// vocabulary --------------------------------------------------------------------------------------

/// What a step decides on the device, so that no host waits for the norm.
struct UpdateState {
  ExactSum sum_of_squares;    // of all gradients
  float gradient_factor = 0;  // of every gradient; 0: not finite, the update does nothing
  LossScaleState loss;        // what the loss is multiplied by, and the steps that were skipped
};

// functions ---------------------------------------------------------------------------------------

/// The factor for gradients that are sums over sentences, `mean` = 1 / sentences: the mean's norm
/// is clipped to `clip` (0: no clipping). 0 where the norm is not finite.
CTRAIN_HOST_DEVICE inline float gradient_factor(double sum_of_squares, float loss_scale, float mean,
                                                float clip) {
  const double scale = double(mean) / double(loss_scale);
  const double norm = std::sqrt(sum_of_squares) * scale;
  if (!(norm <= 1.7976931348623157e308)) return 0;
  const double bound = clip > 0 ? double(clip) / (norm + 1e-6) : 1.0;
  return float(scale * (bound < 1.0 ? bound : 1.0));
}

// kernels -----------------------------------------------------------------------------------------

/// One block per chunk: each thread takes 16 elements at a time, and integers add in any order.
template <class G, int Group> struct SumSquaresChunks {
  static constexpr int threads = 128;
  ExactSum* partial;  // (chunks)
  const G* values;
  std::int64_t count;

  std::int64_t blocks() const { return ceil_divide(count, squares_chunk); }
  int shared_bytes() const { return threads * int(sizeof(ExactSum)); }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    auto* sums = reinterpret_cast<ExactSum*>(block.shared());
    const std::int64_t first = block.index() * squares_chunk;
    const int length = int(count - first < squares_chunk ? count - first : squares_chunk);
    ExactSum sum;
    for (int i = block.thread() * 16; i < length; i += threads * 16)
      add_squares(sum, values + first + i, length - i);
    sum.carry();
    sums[block.thread()] = sum;
    block.sync();
    if (block.thread() != 0) return;
    for (int i = 1; i < threads; ++i) sum.add(sums[i]);
    partial[block.index()] = sum;
  }

 private:
  CTRAIN_HOST_DEVICE static void add_squares(ExactSum& sum, const G* from, int here) {
    float x[16];
    for (int i = 0; i < 16; i += Group)
      if (i + Group <= here)
        store(x + i, load<Group>(from + i));
      else
        for (int j = i; j < i + Group; ++j) x[j] = j < here ? float(from[j]) : 0.0f;
    for (int i = 0; i < 8; ++i)
      sum.add(double(x[i]) * double(x[i]) + double(x[i + 8]) * double(x[i + 8]));
  }
};

/// *sum += the chunks: one thread.
struct FoldSquares {
  static constexpr int threads = 32;
  ExactSum* sum;
  const ExactSum* partial;
  std::int64_t chunks;

  std::int64_t blocks() const { return 1; }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    if (block.thread() != 0) return;
    ExactSum total = *sum;
    for (std::int64_t i = 0; i < chunks; ++i) total.add(partial[i]);
    *sum = total;
  }
};

/// Turns the sum of squares into the gradient's factor; then the loss scale moves.
struct DecideUpdate {
  static constexpr int threads = 32;
  UpdateState* state;
  LossScale by;
  float mean, clip;

  std::int64_t blocks() const { return 1; }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    if (block.thread() != 0) return;
    state->gradient_factor =
        gradient_factor(state->sum_of_squares.value(), state->loss.scale, mean, clip);
    state->loss = loss_scale_after(state->loss, by, state->gradient_factor == 0);
  }
};

/// One pass: 28 bytes an element. `state` null: the call's own gradient_scale; otherwise the factor
/// decided on the device, and nothing at all where that is 0.
template <OptimizerKind Kind, class G> struct AdamWOp {
  AdamWUpdateOf<G> call;
  AdamWFactors factors;
  const UpdateState* state;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    AdamWFactors by = factors;
    if (state != nullptr) {
      if (state->gradient_factor == 0) return;
      by.gradient_scale *= state->gradient_factor;
    }
    Values<N> w = load<N>(call.weight + i), m = load<N>(call.first_moment + i),
              v = load<N>(call.second_moment + i);
    const Values<N> g = load<N>(call.gradient + i);
    for (int j = 0; j < N; ++j) {
      const AdamWElement<float> after =
          adamw<Kind>(AdamWElement<float>{w[j], m[j], v[j]}, g[j], by);
      w[j] = after.weight, m[j] = after.first_moment, v[j] = after.second_moment;
    }
    store(call.weight + i, w);
    store(call.first_moment + i, m);
    store(call.second_moment + i, v);
  }
};

// calls -------------------------------------------------------------------------------------------

template <class G, Stream S> void compute(const SumOfSquaresOf<G>& call, S& stream) {
  constexpr int group = group_of<G>;
  const std::int64_t chunks = ceil_divide(call.count, squares_chunk);
  ExactSum* partial = stream.template scratch<ExactSum>(chunks);
  if (rows_allow_groups(group, 0, call.values))
    stream.launch(SumSquaresChunks<G, group>{partial, call.values, call.count});
  else
    stream.launch(SumSquaresChunks<G, 1>{partial, call.values, call.count});
  stream.launch(FoldSquares{call.sum, partial, chunks});
}

/// AdamW with the factor decided on the device, or, with state null, as the call says.
template <class G, Stream S>
void update(const AdamWUpdateOf<G>& call, S& stream, const UpdateState* state = nullptr) {
  const AdamWFactors factors = adamw_factors(call);
  const auto run = [&](const auto& op) {
    each_element<group_of<G>>(stream, op, call.count, call.weight, call.first_moment,
                              call.second_moment, call.gradient);
  };
  with_adam_kind(call.kind, [&](auto kind) { run(AdamWOp<kind, G>{call, factors, state}); });
}

template <class G, Stream S> void compute(const AdamWUpdateOf<G>& call, S& stream) {
  update(call, stream);
}

/// A kernel that only decides; see UpdateState.
template <Stream S>
void decide_update(S& stream, UpdateState* state, const LossScale& by, float mean, float clip) {
  stream.launch(DecideUpdate{state, by, mean, clip});
}

}  // namespace ctrain::cuda
