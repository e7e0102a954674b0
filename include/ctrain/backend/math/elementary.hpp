/// \file  The elementary functions that kernel formulas are written in, for one float.   floor 5: backend
#pragma once

#include <ctrain/core/config.hpp>

#include <cmath>

namespace ctrain {

// Formulas in backend/math are templates over the number they work on: float here and on a device,
// 16 floats at once in backend/cpu/simd.hpp, which has these same names for its own type.

CTRAIN_HOST_DEVICE inline float exponential(float x) {
  return ::expf(x);
}

CTRAIN_HOST_DEVICE inline float natural_logarithm(float x) {
  return ::logf(x);
}

CTRAIN_HOST_DEVICE inline float hyperbolic_tangent(float x) {
  return ::tanhf(x);
}

CTRAIN_HOST_DEVICE inline float error_function(float x) {
  return ::erff(x);
}

CTRAIN_HOST_DEVICE inline float square_root(float x) {
  return ::sqrtf(x);
}

CTRAIN_HOST_DEVICE inline float magnitude(float x) {
  return ::fabsf(x);
}

CTRAIN_HOST_DEVICE inline float select(bool take, float yes, float no) {
  return take ? yes : no;
}

}  // namespace ctrain
