/// \file  GELU in both forms, tanh, and their slopes.   floor 5: backend
#pragma once

#include <ctrain/backend/math/elementary.hpp>

namespace ctrain {

/// x * Phi(x), Phi the normal distribution function (Hendrycks & Gimpel, arXiv 1606.08415, eq. 1).
template <class Real> CTRAIN_HOST_DEVICE inline Real gelu_erf(Real x) {
  return Real(0.5f) * x * (Real(1.0f) + error_function(x * Real(0.70710678118654752f)));
}

/// d/dx x Phi(x) = Phi(x) + x phi(x).
template <class Real> CTRAIN_HOST_DEVICE inline Real gelu_erf_slope(Real x) {
  const Real distribution =
      Real(0.5f) + Real(0.5f) * error_function(x * Real(0.70710678118654752f));
  const Real density = Real(0.39894228040143268f) * exponential(Real(-0.5f) * x * x);
  return distribution + x * density;
}

/// The logistic function 1 / (1 + e^-x) and its slope. From e^-|x|, so that neither end cancels.
template <class Real> struct Logistic {
  Real value, slope;

  CTRAIN_HOST_DEVICE explicit Logistic(Real x) {
    const Real e = exponential(Real(0.0f) - magnitude(x));
    const Real upper = Real(1.0f) / (Real(1.0f) + e);
    value = select(x < Real(0.0f), e * upper, upper);
    slope = e * upper * upper;
  }
};

/// Twice the argument of tanh in gelu_tanh: sqrt(8 / pi) * (x + 0.044715 x^3).
template <class Real> CTRAIN_HOST_DEVICE inline Real gelu_tanh_argument(Real x) {
  return Real(1.5957691216057308f) * (x + Real(0.044715f) * x * x * x);
}

/// Hugging Face's "gelu_new" (arXiv 1606.08415, section 2): x/2 * (1 + tanh(a)) is x *
/// logistic(2a).
template <class Real> CTRAIN_HOST_DEVICE inline Real gelu_tanh(Real x) {
  return x * Logistic<Real>(gelu_tanh_argument(x)).value;
}

template <class Real> CTRAIN_HOST_DEVICE inline Real gelu_tanh_slope(Real x) {
  const Logistic<Real> logistic(gelu_tanh_argument(x));
  const Real inner = Real(1.5957691216057308f) * (Real(1.0f) + Real(3 * 0.044715f) * x * x);
  return logistic.value + x * logistic.slope * inner;
}

/// The slope of tanh at a point where its value is y.
template <class Real> CTRAIN_HOST_DEVICE inline Real tanh_slope(Real y) {
  return Real(1.0f) - y * y;
}

}  // namespace ctrain
