/// \file  Adam and AdamW of one element, and the factors that a step shares.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/math/elementary.hpp>
#include <ctrain/core/decimal.hpp>

#include <cmath>
#include <type_traits>

namespace ctrain {

/// What decides the factors of a step, in double: betas as someone wrote them.
struct AdamWNumbers {
  OptimizerKind kind = OptimizerKind::adamw_torch;
  double learning_rate = 0, beta1 = 0, beta2 = 0;
  float epsilon = 0, weight_decay = 0, gradient_scale = 1;
  std::int64_t t = 1;
  bool correct_bias = true;
};

/// 1 - beta1^t, and sqrt(1 - beta2^t).
CTRAIN_HOST_DEVICE inline double mean_correction(const AdamWNumbers& n, std::int64_t t) {
  return 1 - std::pow(n.beta1, double(t));
}
CTRAIN_HOST_DEVICE inline double root_correction(const AdamWNumbers& n, std::int64_t t) {
  return std::sqrt(1 - std::pow(n.beta2, double(t)));
}

/// One step's constants, rounded to float once. Decided ones whose gradient_scale is 0: nothing
/// is updated.
struct AdamWFactors {
  float beta1 = 0, beta2 = 0;
  float rest1 = 0, rest2 = 0;  // 1 - beta
  float step_size = 0;         // of m / denominator
  float root_correction = 1;   // what divides sqrt(v): sqrt(1 - beta2^t), or 1 (Hugging Face)
  float epsilon = 0;
  float decay = 0;  // learning_rate * weight_decay, or weight_decay (L2)
  float gradient_scale = 1;
};

template <class Real> struct AdamWElement { Real weight, first_moment, second_moment; };

/// torch.optim.AdamW: w (1 - lr wd) - lr / c1 * m / (sqrt(v) / sqrt(c2) + eps), c = 1 - beta^t.
/// Hugging Face: w - lr sqrt(c2) / c1 * m / (sqrt(v) + eps), then times (1 - lr wd). L2: torch's
/// step of m without decay, which g has had added: wd w.
CTRAIN_HOST_DEVICE inline AdamWFactors adamw_factors(const AdamWNumbers& n) {
  const double correction1 = n.correct_bias ? mean_correction(n, n.t) : 1.0;
  const double root2 = n.correct_bias ? root_correction(n, n.t) : 1.0;
  const bool torch = n.kind != OptimizerKind::adamw_hugging_face;
  const double rate = n.learning_rate;
  return {.beta1 = float(n.beta1),
          .beta2 = float(n.beta2),
          .rest1 = float(1 - n.beta1),
          .rest2 = float(1 - n.beta2),
          .step_size = float(torch ? rate / correction1 : rate * root2 / correction1),
          .root_correction = torch ? float(root2) : 1.0f,
          .epsilon = n.epsilon,
          .decay = n.kind == OptimizerKind::adam_l2 ? n.weight_decay : float(rate * n.weight_decay),
          .gradient_scale = n.gradient_scale};
}

/// Of a call that does not point to decided ones.
template <class G> AdamWFactors adamw_factors(const AdamWUpdateOf<G>& call) {
  return adamw_factors(AdamWNumbers{.kind = call.kind,
                                    .learning_rate = call.learning_rate,
                                    .beta1 = as_written(call.beta1),
                                    .beta2 = as_written(call.beta2),
                                    .epsilon = call.epsilon,
                                    .weight_decay = call.weight_decay,
                                    .gradient_scale = call.gradient_scale,
                                    .t = call.t,
                                    .correct_bias = call.correct_bias});
}

/// Of any call, where its pointers can be followed.
template <class G> AdamWFactors factors_of(const AdamWUpdateOf<G>& call) {
  return call.decided != nullptr ? *call.decided : adamw_factors(call);
}
template <class G> CTRAIN_HOST_DEVICE bool is_skipped(const AdamWUpdateOf<G>& call) {
  return call.decided != nullptr && call.decided->gradient_scale == 0;
}

template <OptimizerKind Kind, class Real>
CTRAIN_HOST_DEVICE inline AdamWElement<Real> adamw(AdamWElement<Real> at, Real gradient,
                                                   const AdamWFactors& by) {
  Real g = gradient * Real(by.gradient_scale);
  if constexpr (Kind == OptimizerKind::adam_l2) g = g + Real(by.decay) * at.weight;
  const Real m = Real(by.beta1) * at.first_moment + Real(by.rest1) * g;
  const Real v = Real(by.beta2) * at.second_moment + Real(by.rest2) * g * g;
  if constexpr (Kind == OptimizerKind::adamw_torch) {
    const Real denominator = square_root(v) / Real(by.root_correction) + Real(by.epsilon);
    const Real decayed = at.weight - Real(by.decay) * at.weight;
    return {decayed - Real(by.step_size) * (m / denominator), m, v};
  } else if constexpr (Kind == OptimizerKind::adam_l2) {
    const Real denominator = square_root(v) / Real(by.root_correction) + Real(by.epsilon);
    return {at.weight - Real(by.step_size) * (m / denominator), m, v};
  } else {
    const Real stepped = at.weight - Real(by.step_size) * (m / (square_root(v) + Real(by.epsilon)));
    return {stepped - Real(by.decay) * stepped, m, v};
  }
}

/// f(the kind as a constant), for the kinds that adamw() knows.
template <class F> void with_adam_kind(OptimizerKind kind, F&& f) {
  using K = OptimizerKind;
  switch (kind) {
    case K::adamw_hugging_face:
      return f(std::integral_constant<K, K::adamw_hugging_face>{});
    case K::adam_l2:
      return f(std::integral_constant<K, K::adam_l2>{});
    default:
      return f(std::integral_constant<K, K::adamw_torch>{});
  }
}

}  // namespace ctrain
