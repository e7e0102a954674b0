/// \file  Dropout of a row, 16 elements at a time.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd.hpp>
#include <ctrain/backend/math/dropout.hpp>

namespace ctrain::cpu {

/// The same bits as DropoutRow. Elements must be visited in rising order from a multiple of 128.
class DropoutLanes {
 public:
  explicit DropoutLanes(const DropoutRow& row) : row_(row) {}

  /// The values of elements [element, element + 16), element a multiple of 16.
  CTRAIN_INLINE simd::Lanes operator()(simd::Lanes value, std::uint32_t element) {
    if (row_.threshold == 0) return value;
    const std::uint32_t inside = element & 127u;
    if (inside == 0) words_ = simd::philox16((element >> 7) * 16u, row_.token, row_.key);
    const std::uint32_t half = inside >> 4;  // words x, y, z, w, low half first
    const simd::Mask dropped =
        simd::half_below(words_.word[half >> 1], (half & 1u) != 0, row_.threshold);
    return simd::select(dropped, 0.0f, value * simd::Lanes(row_.scale));
  }

 private:
  DropoutRow row_;
  simd::Words16 words_ = {};
};

}  // namespace ctrain::cpu
