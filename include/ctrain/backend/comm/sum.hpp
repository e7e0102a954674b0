/// \file  Adds what another rank sent to what this one has.   floor 5: backend
#pragma once

#include <ctrain/core/floating.hpp>
#include <ctrain/core/units.hpp>

namespace ctrain {

/// own[i] += received[i]: in float, rounded once, the same bits on every machine. (g++ -O2 makes
/// vectors of it only if told to, and if what is stored is a number: else 512 KiB of bf16 take half
/// a millisecond instead of a fiftieth. clang needs no word, and warns where one is in vain.)
template <class T> void add_into(T* own, const T* received, std::int64_t count) {
#ifndef __clang__
#pragma omp simd
#endif
  for (std::int64_t i = 0; i < count; ++i) {
    const float sum = float(own[i]) + float(received[i]);
    if constexpr (Half<T>)
      own[i].bits = T::narrow(sum);
    else
      own[i] = sum;
  }
}

/// The same on bytes that hold elements of that type: fp32, bf16 or fp16.
inline void add_into(void* own, const void* received, bytes size, DType element) {
  const auto add = [&]<class T>(T* to) {
    add_into(to, static_cast<const T*>(received), size / bytes(sizeof(T)));
  };
  if (element == DType::fp32) return add(static_cast<float*>(own));
  if (element == DType::bf16) return add(static_cast<bf16*>(own));
  add(static_cast<fp16*>(own));
}

}  // namespace ctrain
