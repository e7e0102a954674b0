/// \file  Sums of one bit an element with error feedback: sizes, scales, signs.   floor 5: backend
#pragma once

#include <ctrain/backend/math/sum_of_squares.hpp>
#include <ctrain/core/config.hpp>
#include <ctrain/core/units.hpp>

#include <cmath>
#include <cstdint>
#include <numeric>

namespace ctrain {

// The compressed all-reduce of 1-bit Adam (Tang et al., arXiv 2102.02888, section 4.2): every rank
// compresses what it has and keeps the error for the next time, sends chunk j to rank j, which
// takes the mean, compresses it with an error of its own, and sends it to all.

/// The sizes of a flat tensor's compression over `ranks`.
struct SignLayout {
  std::int64_t count = 0;  // of the tensor
  int ranks = 1;

  /// A chunk is whole bytes, and as DeepSpeed has it: count is padded to a multiple of
  /// ranks * lcm(8, ranks).
  constexpr std::int64_t padded() const {
    return round_up(count, std::int64_t{ranks} * std::lcm(8, ranks));
  }
  constexpr std::int64_t chunk() const { return padded() / ranks; }
  constexpr bytes chunk_bytes() const { return chunk() / 8; }
  /// What a rank sends in one all-reduce: signs twice, to the servers and from its own, and two
  /// scales, each to every other rank.
  constexpr bytes bytes_sent() const {
    return (ranks - 1) * 2 * (chunk_bytes() + bytes(sizeof(float)));
  }
  constexpr bytes error_bytes() const { return bytes(sizeof(float)) * (padded() + chunk()); }
};

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

/// The mean over ranks of scales[r] * sign i of bits[r * stride], in rank order.
CTRAIN_HOST_DEVICE constexpr float mean_of_signs(const std::uint8_t* bits, std::int64_t stride,
                                                 const float* scales, int ranks, int i) {
  float sum = 0;
  for (int r = 0; r < ranks; ++r) sum += scales[r] * sign_of(bits[r * stride], i);
  return sum / float(ranks);
}

// Paddings for 2, 4 and 8 ranks: 16, 32 and 64 elements.
static_assert(SignLayout{1, 2}.padded() == 16 && SignLayout{1, 4}.padded() == 32 &&
              SignLayout{1, 8}.padded() == 64 && SignLayout{1, 3}.padded() == 72);

}  // namespace ctrain
