/// \file  Optimizers as programs for one element, run over flat ranges in one pass each.   floor 5: backend
#pragma once

#include <ctrain/backend/math/adamw.hpp>
#include <ctrain/backend/math/elementary.hpp>
#include <ctrain/backend/math/sum_of_squares.hpp>
#include <ctrain/core/config.hpp>
#include <ctrain/core/decimal.hpp>
#include <ctrain/policy/policy.hpp>

#include <cmath>
#include <cstdint>

namespace ctrain {

// A row program has `states` arrays of floats, the first `written` of which it changes, and perhaps
// a gradient. step() is written over Real: float, or 16 of them. ready() is called once for a range
// and fetches what an earlier call left in memory.

/// The numbers of one step, as a policy and its schedule give them; t counts from 1.
struct OptimizerNumbers {
  float learning_rate = 0, beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f, weight_decay = 0;
  float gradient_scale = 1;
  std::int64_t t = 1;

  /// The same in double, as they were written.
  operator AdamWNumbers() const {
    return {.learning_rate = learning_rate,
            .beta1 = as_written(beta1),
            .beta2 = as_written(beta2),
            .epsilon = epsilon,
            .weight_decay = weight_decay,
            .gradient_scale = gradient_scale,
            .t = t};
  }
};

// moments ----------------------------------------------------------------------------------------

/// m = beta1 m + (1 - beta1) g.
struct FollowGradient {
  static constexpr int states = 1, written = 1;
  static constexpr bool takes_gradient = true;
  float beta1 = 0, rest1 = 0, gradient_scale = 1;

  explicit FollowGradient(const OptimizerNumbers& n)
      : beta1(n.beta1), rest1(float(1 - as_written(n.beta1))), gradient_scale(n.gradient_scale) {}
  CTRAIN_HOST_DEVICE FollowGradient ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real gradient) const {
    x[0] = Real(beta1) * x[0] + Real(rest1) * (gradient * Real(gradient_scale));
  }
};

/// m and v of Adam.
struct FollowMoments {
  static constexpr int states = 2, written = 2;
  static constexpr bool takes_gradient = true;
  float beta1 = 0, rest1 = 0, beta2 = 0, rest2 = 0, gradient_scale = 1;

  FollowMoments() = default;
  CTRAIN_HOST_DEVICE explicit FollowMoments(const AdamWNumbers& n)
      : beta1(float(n.beta1)),
        rest1(float(1 - n.beta1)),
        beta2(float(n.beta2)),
        rest2(float(1 - n.beta2)),
        gradient_scale(n.gradient_scale) {}
  CTRAIN_HOST_DEVICE FollowMoments ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real gradient) const {
    const Real g = gradient * Real(gradient_scale);
    x[0] = Real(beta1) * x[0] + Real(rest1) * g;
    x[1] = Real(beta2) * x[1] + Real(rest2) * g * g;
  }
};

// directions -------------------------------------------------------------------------------------

/// u(w, m, v) = mean_factor m / (sqrt(v) / root_correction + epsilon) + decay w.
struct Direction {
  static constexpr int states = 3;
  float mean_factor = 1, root_correction = 1, epsilon = 0, decay = 0;

  template <class Real> CTRAIN_HOST_DEVICE Real of(const Real (&x)[states]) const {
    const Real denominator = square_root(x[2]) / Real(root_correction) + Real(epsilon);
    return Real(mean_factor) * x[1] / denominator + Real(decay) * x[0];
  }
};

/// Without correction of bias.
CTRAIN_HOST_DEVICE inline Direction plain_direction(const AdamWNumbers& n) {
  return {.epsilon = n.epsilon, .decay = n.weight_decay};
}
/// With m corrected at step t, and v as of step `frozen` where it no longer moves.
CTRAIN_HOST_DEVICE inline Direction corrected_direction(const AdamWNumbers& n,
                                                        std::int64_t frozen) {
  return {.mean_factor = float(1 / mean_correction(n, n.t)),
          .root_correction = float(root_correction(n, frozen < n.t ? frozen : n.t)),
          .epsilon = n.epsilon,
          .decay = n.weight_decay};
}

/// w -= rate u(w, m, v).
struct Descend {
  static constexpr int states = 3, written = 1;
  static constexpr bool takes_gradient = false;
  Direction direction;
  float rate = 0;

  CTRAIN_HOST_DEVICE Descend ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = x[0] - Real(rate) * direction.of(x);
  }
};

// LAMB -------------------------------------------------------------------------------------------

/// The norms of a tensor and of its update.
struct LambNorms {
  ExactSum weight, update;
};

/// |w| / |u| within bounds; 1 where either is 0.
CTRAIN_HOST_DEVICE inline float trust_ratio(const LambNorms& norms, const TrustRatio& bounds) {
  const double weight = norms.weight.value(), update = norms.update.value();
  if (!(weight > 0 && update > 0)) return 1;
  const float ratio = float(std::sqrt(weight) / std::sqrt(update));
  return ratio < bounds.least ? bounds.least : ratio > bounds.most ? bounds.most : ratio;
}

/// What a step of LAMB does to every tensor: u, and the rate that the trust ratio is multiplied by.
struct LambStep {
  FollowMoments follow;
  Descend descend;

  /// Nothing is done.
  CTRAIN_HOST_DEVICE constexpr bool is_skipped() const { return follow.gradient_scale == 0; }
};

/// The paper (arXiv 1904.00962, algorithm 2) corrects both moments; DeepSpeed's FusedLamb neither,
/// but the whole update. A gradient_scale of 0: nothing is done.
CTRAIN_HOST_DEVICE inline LambStep lamb_step(const AdamWNumbers& n, Compat compat) {
  const bool corrects_each = compat == Compat::paper;
  const double rate = corrects_each
                          ? n.learning_rate
                          : n.learning_rate * (root_correction(n, n.t) / mean_correction(n, n.t));
  const Direction u = corrects_each ? corrected_direction(n, n.t) : plain_direction(n);
  return {FollowMoments(n), {u, float(rate)}};
}

/// w -= rate trust_ratio(*norms) u(w, m, v).
struct DescendByTrust {
  static constexpr int states = 3, written = 1;
  static constexpr bool takes_gradient = false;
  Descend descend;
  TrustRatio bounds;
  const LambNorms* norms = nullptr;

  CTRAIN_HOST_DEVICE Descend ready() const {
    return {descend.direction, descend.rate * trust_ratio(*norms, bounds)};
  }
};

// The same by a step that was decided in memory: FollowMoments, Direction, DescendByTrust.

template <class Program> struct UnlessSkipped {
  Program program;
  bool is_skipped;

  template <class Real, int States>
  CTRAIN_HOST_DEVICE void step(Real (&x)[States], Real gradient) const {
    if (!is_skipped) program.step(x, gradient);
  }
};

struct FollowMomentsOf {
  static constexpr int states = 2, written = 2;
  static constexpr bool takes_gradient = true;
  const LambStep* step = nullptr;

  CTRAIN_HOST_DEVICE UnlessSkipped<FollowMoments> ready() const {
    return {step->follow, step->is_skipped()};
  }
};

struct DirectionOf {
  static constexpr int states = 3;
  const LambStep* step = nullptr;

  template <class Real> CTRAIN_HOST_DEVICE Real of(const Real (&x)[states]) const {
    return step->descend.direction.of(x);
  }
};

struct DescendByTrustOf {
  static constexpr int states = 3, written = 1;
  static constexpr bool takes_gradient = false;
  const LambStep* step = nullptr;
  TrustRatio bounds;
  const LambNorms* norms = nullptr;

  CTRAIN_HOST_DEVICE UnlessSkipped<Descend> ready() const {
    return {DescendByTrust{step->descend, bounds, norms}.ready(), step->is_skipped()};
  }
};

}  // namespace ctrain
