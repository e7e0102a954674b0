/// \file  Sums of one bit an element with error feedback: scales and signs.   floor 5: backend
#pragma once

#include <ctrain/backend/math/sum_of_squares.hpp>
#include <ctrain/core/config.hpp>

#include <cmath>
#include <cstdint>

namespace ctrain {

// The compressed all-reduce of 1-bit Adam (Tang et al., arXiv 2102.02888, section 4.2): every rank
// compresses what it has and keeps the error for the next time, sends chunk j to rank j, which
// takes the mean, compresses it with an error of its own, and sends it to all.

/// The root mean square.
CTRAIN_HOST_DEVICE inline float sign_scale(const ExactSum& sum, std::int64_t count) {
  return float(std::sqrt(sum.value() / double(count)));
}

CTRAIN_HOST_DEVICE constexpr float sign_of(std::uint8_t byte, int i) {
  return (byte >> (7 - i)) & 1 ? 1.0f : -1.0f;
}

/// Eight elements become their signs; what is lost stays.
CTRAIN_HOST_DEVICE constexpr std::uint8_t pack_signs(float* error, float scale) {
  int byte = 0;
  for (int i = 0; i < 8; ++i) {
    const bool positive = error[i] >= 0;
    byte |= int(positive) << (7 - i);
    error[i] -= positive ? scale : -scale;
  }
  return std::uint8_t(byte);
}

/// The mean over ranks of their scale times their sign i, in rank order; ranks' bytes and scales
/// are `stride` bytes apart.
CTRAIN_HOST_DEVICE inline float mean_of_signs(const std::uint8_t* bits, const float* scales,
                                              std::int64_t stride, int ranks, int i) {
  float sum = 0;
  for (int r = 0; r < ranks; ++r) {
    const auto* scale = reinterpret_cast<const char*>(scales) + r * stride;
    sum += *reinterpret_cast<const float*>(scale) * sign_of(bits[r * stride], i);
  }
  return sum / float(ranks);
}

}  // namespace ctrain
