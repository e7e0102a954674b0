/// \file  Layer normalisation of one element, given its row's statistics.   floor 5: backend
#pragma once

#include <ctrain/backend/math/elementary.hpp>

namespace ctrain {

/// 1 / sqrt(variance + epsilon), the variance from a row's sum of squared deviations.
CTRAIN_HOST_DEVICE inline float inverse_deviation(float squared_deviations, int hidden,
                                                  float epsilon) {
  return 1.0f / square_root(squared_deviations / float(hidden) + epsilon);
}

/// xhat of Ba et al., arXiv 1607.06450, eq. 4.
template <class Real> CTRAIN_HOST_DEVICE inline Real normalised(Real x, Real mean, Real rstd) {
  return (x - mean) * rstd;
}

/// The gradient of x: g = gain * dy, `mean_g` and `mean_g_xhat` the row's means of g and g * xhat.
template <class Real>
CTRAIN_HOST_DEVICE inline Real layer_norm_slope(Real g, Real xhat, Real mean_g, Real mean_g_xhat,
                                                Real rstd) {
  return rstd * (g - mean_g - xhat * mean_g_xhat);
}

}  // namespace ctrain
