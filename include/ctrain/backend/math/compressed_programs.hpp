/// \file  What 1-bit Adam, 1-bit LAMB and 0/1 Adam do to an element, and when they do what.   floor 5: backend
#pragma once

#include <ctrain/backend/math/row_programs.hpp>

#include <cstdint>

namespace ctrain {

// common -----------------------------------------------------------------------------------------

/// e += x: what a rank compresses.
struct AddToError {
  static constexpr int states = 2, written = 1;
  static constexpr bool takes_gradient = false;

  CTRAIN_HOST_DEVICE AddToError ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = x[0] + x[1];
  }
};

/// m within bound * sqrt(v); 0 where v is 0. Out of a sum of signs every element comes as plus or
/// minus the scale, also one that never had a gradient, or a tiny one only, and its frozen sqrt(v)
/// would then make a huge step of it. Adam's own steps are bounded: see adam_bound(). (DeepSpeed
/// has users pass a mask for elements without gradients, which is this with no bound.)
template <class Real> CTRAIN_HOST_DEVICE inline Real within_variance(Real m, Real v, float bound) {
  const Real most = Real(bound) * square_root(v), least = Real(0.0f) - most;
  const Real below = select(m < most, m, most);
  return select(least < below, below, least);
}
struct KeepWithinVariance {
  static constexpr int states = 2, written = 1;  // m, v
  static constexpr bool takes_gradient = false;
  float bound = 3e38f;

  CTRAIN_HOST_DEVICE KeepWithinVariance ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = within_variance(x[0], x[1], bound);
  }
};

/// The largest |m| / sqrt(v) that Adam comes to with a variance of `frozen` steps: after one
/// gradient among zeros, or after equal ones.
inline float adam_bound(const OptimizerNumbers& n, std::int64_t frozen) {
  const double alone = (1 - as_written(n.beta1)) / std::sqrt(1 - as_written(n.beta2));
  return float(std::fmax(alone, 1 / root_correction(n, frozen)));
}

// 1-bit LAMB -------------------------------------------------------------------------------------

/// What a tensor keeps beside its moments. All zero at start.
struct OneBitLambTensor {
  float coefficient = 0;    // moving average of the trust ratio
  float factor = 0;         // of the last step, from the variance that still moves; 0: no step yet
  float root = 0;           // root mean square of the momentum where the variance was frozen
  float mean_root = 0;      // the mean of all tensors'
  float largest_ratio = 0;  // of the variances, in this step

  /// Of the momentum before it is compressed: brings tensors to one size.
  CTRAIN_HOST_DEVICE float scaling() const { return root > 0 ? mean_root / root : 1.0f; }
};
static_assert(sizeof(OneBitLambTensor) == 20);  // all but the last outlive a step

/// Averages this step's trust ratio; a ratio of 1 counts as none, as in DeepSpeed.
CTRAIN_HOST_DEVICE constexpr float coefficient_after(float coefficient, float ratio, float beta) {
  return ratio == 1.0f ? coefficient : beta * coefficient + (1 - beta) * ratio;
}

/// v' from the gradient that the summed momentum stands for: (m - beta1 m_before) / (1 - beta1).
struct FollowMomentum {
  static constexpr int states = 3, written = 1;  // v', m, m_before
  static constexpr bool takes_gradient = false;
  float beta1 = 0, per_rest1 = 0, beta2 = 0, rest2 = 0;

  explicit FollowMomentum(const OptimizerNumbers& n)
      : beta1(n.beta1),
        per_rest1(float(1 / (1 - as_written(n.beta1)))),
        beta2(n.beta2),
        rest2(float(1 - as_written(n.beta2))) {}
  CTRAIN_HOST_DEVICE FollowMomentum ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    const Real g = (x[1] - Real(beta1) * x[2]) * Real(per_rest1);
    x[0] = Real(beta2) * x[0] + Real(rest2) * g * g;
  }
};

/// (sqrt(v) + epsilon) / (sqrt(v') + epsilon).
struct VarianceRatio {
  static constexpr int states = 2;
  float epsilon = 0;

  template <class Real> CTRAIN_HOST_DEVICE Real of(const Real (&x)[states]) const {
    return (square_root(x[0]) + Real(epsilon)) / (square_root(x[1]) + Real(epsilon));
  }
};

/// The factor of this step: the largest VarianceRatio, toned down by how much of the update is
/// decay, within bounds, and no further than factor_step from the last. `moved` and `whole`: norms
/// of the update without and with decay.
CTRAIN_HOST_DEVICE constexpr float factor_after(float last, float largest, float moved, float whole,
                                                bool decays, const Compression& by) {
  float factor = largest;
  if (decays && whole > 0) {
    const float share = moved < whole ? moved / whole : 1.0f;
    factor = factor * share + (1 - share);
  }
  const auto within = [](float x, float least, float most) {
    return x < least ? least : x > most ? most : x;
  };
  factor = within(factor, by.factor_least, by.factor_most);
  return within(factor, last * (1 - by.factor_step), last * (1 + by.factor_step));
}

/// e += scaling m: what a rank compresses of a tensor.
struct AddScaledToError {
  static constexpr int states = 2, written = 1;
  static constexpr bool takes_gradient = false;
  const OneBitLambTensor* tensor = nullptr;
  float scaling = 1;

  CTRAIN_HOST_DEVICE AddScaledToError ready() const { return {nullptr, tensor->scaling()}; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = x[0] + Real(scaling) * x[1];
  }
};
/// m = m / scaling: the way back.
struct ScaleBack {
  static constexpr int states = 1, written = 1;
  static constexpr bool takes_gradient = false;
  const OneBitLambTensor* tensor = nullptr;
  float factor = 1;

  CTRAIN_HOST_DEVICE ScaleBack ready() const { return {nullptr, 1.0f / tensor->scaling()}; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = x[0] * Real(factor);
  }
};

/// e += scaling (m - m within bound sqrt(v)): what a bound cuts off has not been sent either, and a
/// server keeps it with what it lost. Without that, momentum would shrink wherever a gradient is
/// small beside its tensor's, by as much as it is smaller. `tensor`: of 1-bit LAMB, else none.
struct KeepWhatIsCutOff {
  static constexpr int states = 3, written = 1;  // e, m, v
  static constexpr bool takes_gradient = false;
  float bound = 3e38f;
  const OneBitLambTensor* tensor = nullptr;
  float scaling = 1;

  CTRAIN_HOST_DEVICE KeepWhatIsCutOff ready() const {
    return {bound, nullptr, tensor != nullptr ? tensor->scaling() : 1.0f};
  }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = x[0] + Real(scaling) * (x[1] - within_variance(x[1], x[2], bound));
  }
};

/// Once: this step's trust ratio joins the average.
struct AverageTrust {
  OneBitLambTensor* tensor = nullptr;
  const LambNorms* norms = nullptr;
  TrustRatio bounds;
  float beta = 0;
  CTRAIN_HOST_DEVICE void operator()() const {
    tensor->coefficient = coefficient_after(tensor->coefficient, trust_ratio(*norms, bounds), beta);
  }
};
/// Once: the root mean square of a tensor's momentum, and its part of the mean of `tensors` of
/// them.
struct TakeRoot {
  OneBitLambTensor* tensor = nullptr;
  const ExactSum* squares = nullptr;
  std::int64_t count = 0, tensors = 1;
  float* mean = nullptr;
  CTRAIN_HOST_DEVICE void operator()() const {
    tensor->root = float(std::sqrt(squares->value() / double(count)));
    *mean += tensor->root / float(tensors);
  }
};
/// Once: the mean is known.
struct TakeMeanRoot {
  OneBitLambTensor* tensor = nullptr;
  const float* mean = nullptr;
  CTRAIN_HOST_DEVICE void operator()() const { tensor->mean_root = *mean; }
};
/// Once: the factor of this step. `norms->weight` is of the update without decay.
struct TakeFactor {
  OneBitLambTensor* tensor = nullptr;
  const LambNorms* norms = nullptr;
  bool decays = false;
  Compression by;
  CTRAIN_HOST_DEVICE void operator()() const {
    const float last = tensor->factor > 0 ? tensor->factor : 1.0f;
    tensor->factor =
        factor_after(last, tensor->largest_ratio, float(std::sqrt(norms->weight.value())),
                     float(std::sqrt(norms->update.value())), decays, by);
    tensor->largest_ratio = 0;
  }
};
/// w -= rate coefficient factor u(w, m, v).
struct DescendByCoefficient {
  static constexpr int states = 3, written = 1;
  static constexpr bool takes_gradient = false;
  Descend descend;
  const OneBitLambTensor* tensor = nullptr;

  CTRAIN_HOST_DEVICE Descend ready() const {
    return {descend.direction, descend.rate * tensor->coefficient * tensor->factor};
  }
};

// 0/1 Adam ---------------------------------------------------------------------------------------

/// What a step divides momentum by: sqrt(v + epsilon) in the paper, sqrt(v) + epsilon in DeepSpeed.
struct ZeroOneRoot {
  float within = 0, beside = 0;

  ZeroOneRoot(float epsilon, Compat compat)
      : within(compat == Compat::paper ? epsilon : 0.0f),
        beside(compat == Compat::paper ? 0.0f : epsilon) {}
  template <class Real> CTRAIN_HOST_DEVICE Real of(Real v) const {
    return square_root(v + Real(within)) + Real(beside);
  }
};

/// What all programs of a step know. DeepSpeed sends weight decay along with momentum; in the
/// paper, which has none, every rank can apply it to what all have.
struct ZeroOneNumbers {
  ZeroOneRoot root;
  float rate = 0, decay = 0, sent_decay = 0;

  ZeroOneNumbers(const OptimizerNumbers& n, Compat compat)
      : root(n.epsilon, compat),
        rate(n.learning_rate),
        decay(n.weight_decay),
        sent_decay(compat == Compat::paper ? 0.0f : n.weight_decay) {}

  template <class Real> CTRAIN_HOST_DEVICE Real descended(Real w, Real m, Real root_of_v) const {
    return w - Real(rate) * (m / root_of_v + Real(decay) * w);
  }
  /// What a step adds to what its rank will send.
  template <class Real> CTRAIN_HOST_DEVICE Real gathered(Real w, Real m, Real root_of_v) const {
    return Real(rate) * (m + Real(sent_decay) * w * root_of_v);
  }
};

/// m = beta1 m + (1 - beta1) g within bound * sqrt(v), since v does not follow.
struct FollowWithin {
  static constexpr int states = 2, written = 1;  // m, v
  static constexpr bool takes_gradient = true;
  FollowGradient follow;
  float bound = 3e38f;

  CTRAIN_HOST_DEVICE FollowWithin ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real gradient) const {
    Real m[1] = {x[0]};
    follow.step(m, gradient);
    x[0] = within_variance(m[0], x[1], bound);
  }
};

/// w -= rate (m / root + decay w).
struct DescendByRoot {
  static constexpr int states = 3, written = 1;  // w, m, v
  static constexpr bool takes_gradient = false;
  ZeroOneNumbers by;

  CTRAIN_HOST_DEVICE DescendByRoot ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = by.descended(x[0], x[1], by.root.of(x[2]));
  }
};

/// u += what this step adds: momentum times rate.
struct GatherMomentum {
  static constexpr int states = 4, written = 1;  // u, w, m, v
  static constexpr bool takes_gradient = false;
  ZeroOneNumbers by;

  CTRAIN_HOST_DEVICE GatherMomentum ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = x[0] + by.gathered(x[1], x[2], by.root.of(x[3]));
  }
};

/// Both: a step of one rank alone.
struct LocalStep {
  static constexpr int states = 4, written = 2;  // u, w, m, v
  static constexpr bool takes_gradient = false;
  ZeroOneNumbers by;

  CTRAIN_HOST_DEVICE LocalStep ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    const Real root = by.root.of(x[3]);
    x[0] = x[0] + by.gathered(x[1], x[2], root);
    x[1] = by.descended(x[1], x[2], root);
  }
};

/// A sync, of weights w' that all ranks had at the last one, and the mean u of what they have
/// gathered since: w = kept w' - u / root, m = u / the sum of rates since. `kept`: what decay has
/// left. u is within `bound` times the sum of rates, as a sum of signs has to be: see
/// KeepWithinVariance.
struct TakeSync {
  static constexpr int states = 4, written = 2;  // w, u that becomes m, v, w'
  static constexpr bool takes_gradient = false;
  ZeroOneRoot root;
  float bound = 3e38f, kept = 1, per_rates = 0;

  TakeSync(ZeroOneRoot root, float bound, double kept, double rates)
      : root(root),
        bound(bound < 1e38f ? float(bound * rates) : bound),
        kept(float(kept)),
        per_rates(rates > 0 ? float(1 / rates) : 0.0f) {}
  CTRAIN_HOST_DEVICE TakeSync ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    const Real u = within_variance(x[1], x[2], bound);
    x[0] = Real(kept) * x[3] - u / root.of(x[2]);
    x[1] = u * Real(per_rates);
  }
};

/// The same on a rank that has nobody to meet, whose weights are where they should be.
struct TakeOwnMean {
  static constexpr int states = 2, written = 2;  // m, u
  static constexpr bool takes_gradient = false;
  float per_rates = 0;

  CTRAIN_HOST_DEVICE TakeOwnMean ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = x[1] * Real(per_rates);
    x[1] = Real(0.0f);
  }
};

/// e += g: what a rank compresses where gradients are summed as signs.
struct AddGradientToError {
  static constexpr int states = 1, written = 1;
  static constexpr bool takes_gradient = true;
  float gradient_scale = 1;

  CTRAIN_HOST_DEVICE AddGradientToError ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real gradient) const {
    x[0] = x[0] + gradient * Real(gradient_scale);
  }
};

// when -------------------------------------------------------------------------------------------

/// What a step of 0/1 Adam is. `variance`: gradients are summed in full, both moments follow.
/// `signs`: gradients are summed as signs, m alone follows (DeepSpeed only). `local`: nothing is
/// sent, every rank goes on with its own gradient. `sync`: the same, and then ranks send signs of
/// what they have gathered since the last sync.
enum class ZeroOneStep : std::uint8_t { variance, signs, local, sync };

/// Where 0/1 Adam's intervals stand (arXiv 2202.06009, section 6; DeepSpeed's zoadam.py).
struct ZeroOneState {
  std::int64_t step = 0;  // done so far
  std::int64_t variance_interval = 1, local_interval = 1;
  std::int64_t variance_steps = 0, local_steps = 0;  // since an interval last doubled
  std::int64_t variances = 0;                        // variance steps of the whole run
  // since ranks last had the same weights:
  bool is_local = false;  // they no longer have
  double rates = 0;       // the sum of learning rates
  double kept = 1;        // what decay has left of a weight

  friend constexpr bool operator==(const ZeroOneState&, const ZeroOneState&) = default;
};

/// What the next step is. In the paper ranks sync in every step until the variance is frozen; where
/// they sum gradients in full anyway, those tell them the mean momentum without signs.
constexpr ZeroOneStep zero_one_step(const ZeroOneState& at, const Compression& by, Compat compat) {
  const std::int64_t t = at.step + 1;
  if (t > by.freeze_step)
    return t % at.local_interval == 0 ? ZeroOneStep::sync : ZeroOneStep::local;
  if (t % at.variance_interval == 0) return ZeroOneStep::variance;
  return compat == Compat::paper ? ZeroOneStep::sync : ZeroOneStep::signs;
}

/// The same state, but all ranks have met.
constexpr ZeroOneState zero_one_synced(ZeroOneState at) {
  at.is_local = false, at.rates = 0, at.kept = 1;
  return at;
}

/// The state after that step. The interval of variance steps doubles after variance_scaler of them,
/// that of syncs after local_step_scaler steps.
constexpr ZeroOneState zero_one_after(ZeroOneState at, const Compression& by, Compat compat,
                                      double rate = 0, double decay = 0) {
  const ZeroOneStep did = zero_one_step(at, by, compat);
  const bool is_frozen = ++at.step > by.freeze_step;
  at.variances += did == ZeroOneStep::variance;
  if (did == ZeroOneStep::variance && ++at.variance_steps == by.variance_scaler) {
    at.variance_steps = 0;
    at.variance_interval *= 2;
  }
  if (did == ZeroOneStep::local)
    at.is_local = true, at.rates += rate, at.kept *= 1 - rate * decay;
  else
    at = zero_one_synced(at);
  if (is_frozen && ++at.local_steps == by.local_step_scaler) {
    at.local_steps = 0;
    const std::int64_t longer = at.local_interval * 2;
    at.local_interval = longer < by.local_step_limit ? longer : by.local_step_limit;
  }
  return at;
}

/// How many steps from here the next sync ends: 0 where ranks have the same weights.
constexpr std::int64_t zero_one_steps_to_sync(ZeroOneState at, const Compression& by,
                                              Compat compat) {
  std::int64_t steps = 0;
  for (; at.is_local; ++steps) at = zero_one_after(at, by, compat);
  return steps;
}

}  // namespace ctrain
