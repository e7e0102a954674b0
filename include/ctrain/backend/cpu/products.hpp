/// \file  What every engine of linear layers shares: shapes it prepares for, weights, scratch.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/simd.hpp>

namespace ctrain::cpu {

/// A linear layer that steps will ask for.
struct LinearShape {
  int out = 0, in = 0;
  bool packed = false;
};

/// 64 aligned bytes of scratch memory.
struct alignas(64) CacheLine {
  char bytes[64];
};

/// Lanes of a bias from column `c` on; 0 where there is none.
template <class Lanes_> simd::Lanes bias_lanes(const float* bias, int c, Lanes_ some) {
  return bias == nullptr ? simd::Lanes(0.0f) : simd::load(bias + c, some);
}

/// f on the weight's rows: the copy, or the master where there is none.
template <class T, class F> void with_rows(const Weight<T>& weight, const T* copy, F&& f) {
  if constexpr (dtype_of<T> == DType::fp32)
    f(copy ? copy : weight.master);
  else
    copy ? f(copy) : f(weight.master);
}

}  // namespace ctrain::cpu
