/// \file  What every engine of linear layers shares: shapes it prepares for, weights, scratch.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>

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

/// The copy, or the master where there is none (fp32).
template <class T> const T* row_major(const Weight<T>& weight, const T* copy) {
  if constexpr (dtype_of<T> == DType::fp32)
    return copy ? copy : weight.master;
  else
    return copy;
}

}  // namespace ctrain::cpu
