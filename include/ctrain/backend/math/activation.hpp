/// \file  GELU in both forms, tanh, and their slopes.   floor 5: backend
#pragma once

#include <ctrain/backend/math/elementary.hpp>

namespace ctrain {

/// x * Phi(x), Phi the normal distribution function (Hendrycks & Gimpel, arXiv 1606.08415, eq. 1).
template <class Real>
CTRAIN_HOST_DEVICE inline Real gelu_erf(Real x) {
  return Real(0.5f) * x * (Real(1.0f) + error_function(x * Real(0.70710678118654752f)));
}

/// d/dx x Phi(x) = Phi(x) + x phi(x).
template <class Real>
CTRAIN_HOST_DEVICE inline Real gelu_erf_slope(Real x) {
  const Real distribution =
      Real(0.5f) + Real(0.5f) * error_function(x * Real(0.70710678118654752f));
  const Real density = Real(0.39894228040143268f) * exponential(Real(-0.5f) * x * x);
  return distribution + x * density;
}

/// The argument of the tanh form: sqrt(2 / pi) * (x + 0.044715 x^3).
template <class Real>
CTRAIN_HOST_DEVICE inline Real gelu_tanh_argument(Real x) {
  return Real(0.79788456080286536f) * (x + Real(0.044715f) * x * x * x);
}

/// Hugging Face's "gelu_new" (arXiv 1606.08415, section 2).
template <class Real>
CTRAIN_HOST_DEVICE inline Real gelu_tanh(Real x) {
  return Real(0.5f) * x * (Real(1.0f) + hyperbolic_tangent(gelu_tanh_argument(x)));
}

template <class Real>
CTRAIN_HOST_DEVICE inline Real gelu_tanh_slope(Real x) {
  const Real t = hyperbolic_tangent(gelu_tanh_argument(x));
  const Real inner = Real(0.79788456080286536f) * (Real(1.0f) + Real(3 * 0.044715f) * x * x);
  return Real(0.5f) * (Real(1.0f) + t) + Real(0.5f) * x * (Real(1.0f) - t * t) * inner;
}

/// The slope of tanh at a point where its value is y.
template <class Real>
CTRAIN_HOST_DEVICE inline Real tanh_slope(Real y) {
  return Real(1.0f) - y * y;
}

}  // namespace ctrain
