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

/// A step of one rank alone, remembered in b: d = rate u(w, m, v); w -= d, b -= d.
struct DescendAlone {
  static constexpr int states = 4, written = 2;  // w, b, m, v
  static constexpr bool takes_gradient = false;
  Direction direction;
  float rate = 0;

  CTRAIN_HOST_DEVICE DescendAlone ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    const Real at[3] = {x[0], x[2], x[3]};
    const Real d = Real(rate) * direction.of(at);
    x[0] = x[0] - d;
    x[1] = x[1] - d;
  }
};

/// Before ranks meet: w goes back to where all were last, b becomes momentum's worth.
struct BeginMeeting {
  static constexpr int states = 3, written = 2;  // w, b, v
  static constexpr bool takes_gradient = false;
  float epsilon = 0;

  CTRAIN_HOST_DEVICE BeginMeeting ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    x[0] = x[0] - x[1];
    x[1] = x[1] * (square_root(x[2]) + Real(epsilon));
  }
};

/// After: m is the mean momentum since the last time, w has moved by it. `rates`: the sum of
/// learning rates since.
struct EndMeeting {
  static constexpr int states = 4, written = 3;  // w, b, m, v
  static constexpr bool takes_gradient = false;
  float epsilon = 0, per_rates = 0;

  EndMeeting(float epsilon, double rates)
      : epsilon(epsilon), per_rates(rates > 0 ? float(1 / rates) : 0.0f) {}
  CTRAIN_HOST_DEVICE EndMeeting ready() const { return *this; }
  template <class Real> CTRAIN_HOST_DEVICE void step(Real (&x)[states], Real) const {
    const Real moved = select(Real(0.0f) < x[3], x[1], Real(0.0f));
    x[0] = x[0] + moved / (square_root(x[3]) + Real(epsilon));
    x[2] = Real(0.0f) - moved * Real(per_rates);
    x[1] = Real(0.0f);
  }
};

// when -------------------------------------------------------------------------------------------

/// What a step of 0/1 Adam is. `variance`: gradients are summed in full and both moments follow.
/// `signs`: gradients are summed as signs, m alone follows. `alone`: nothing is sent. `meeting`:
/// alone, then ranks meet.
enum class ZeroOneStep : std::uint8_t { variance, signs, alone, meeting };

/// Where 0/1 Adam's intervals stand (arXiv 2202.06009, section 6; DeepSpeed's zoadam.py).
struct ZeroOneState {
  std::int64_t step = 0;  // done so far
  std::int64_t variance_interval = 1, local_interval = 1;
  std::int64_t variance_steps = 0, local_steps = 0;  // since an interval last doubled
  double rates = 0;                                  // summed since ranks last met

  friend constexpr bool operator==(const ZeroOneState&, const ZeroOneState&) = default;
};

/// What the next step is.
constexpr ZeroOneStep zero_one_step(const ZeroOneState& at, const Compression& by) {
  const std::int64_t t = at.step + 1;
  if (t <= by.freeze_step)
    return t % at.variance_interval == 0 ? ZeroOneStep::variance : ZeroOneStep::signs;
  return t % at.local_interval == 0 ? ZeroOneStep::meeting : ZeroOneStep::alone;
}

/// The state after that step. The interval of variance steps doubles after variance_scaler of them,
/// that of meetings after local_step_scaler steps.
constexpr ZeroOneState zero_one_after(ZeroOneState at, const Compression& by, double rate) {
  const ZeroOneStep did = zero_one_step(at, by);
  ++at.step;
  if (did == ZeroOneStep::variance && ++at.variance_steps == by.variance_scaler) {
    at.variance_steps = 0;
    at.variance_interval *= 2;
  }
  if (did == ZeroOneStep::variance || did == ZeroOneStep::signs) return at;
  at.rates = did == ZeroOneStep::meeting ? 0 : at.rates + rate;
  if (++at.local_steps == by.local_step_scaler) {
    at.local_steps = 0;
    const std::int64_t longer = at.local_interval * 2;
    at.local_interval = longer < by.local_step_limit ? longer : by.local_step_limit;
  }
  return at;
}

}  // namespace ctrain
