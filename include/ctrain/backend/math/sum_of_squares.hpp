/// \file  Sums of squares as integers: exact, so the same in any order and on any number of ranks.   floor 5: backend
#pragma once

#include <ctrain/core/config.hpp>

#include <cmath>
#include <cstdint>

namespace ctrain {

// Floating sums depend on their order, and with it on threads, ranks and shards. Here each pair of
// squares x[i]^2 + x[i + 8]^2 (i < 8 within 16 elements; one rounding, in double) is cut into three
// integers, and integers add exactly (after Demmel & Nguyen, "Fast reproducible floating-point
// summation", 2013, with bins that are fixed). Elements below 2^-42 count as nothing.

/// 2^100 high + 2^50 middle + low, in units of 2^-84.
struct ExactSum {
  std::int64_t high = 0, middle = 0, low = 0;
  std::int64_t not_finite = 0;  // summands that were no numbers, or of elements beyond 2^24

  /// Where each integer is cut off: adding and taking away rounds to a multiple of its unit.
  static constexpr double cut_high = 1.5 * 0x1p68, cut_middle = 1.5 * 0x1p18,
                          cut_low = 1.5 * 0x1p-32;
  static constexpr double largest = 0x1p49;
  /// Summands between two calls of carry(), at most: a part of one is below 2^50.
  static constexpr int most_uncarried = 4096;

  CTRAIN_HOST_DEVICE constexpr void add(double x) {
    if (!(x < largest)) {
      ++not_finite;
      return;
    }
    const double top = (x + cut_high) - cut_high, rest = x - top;
    const double middle_part = (rest + cut_middle) - cut_middle, last = rest - middle_part;
    high += std::int64_t(top * 0x1p-16);
    middle += std::int64_t(middle_part * 0x1p34);
    low += std::int64_t(((last + cut_low) - cut_low) * 0x1p84);
  }
  /// Brings `middle` and `low` into [0, 2^50): one sum has one form.
  CTRAIN_HOST_DEVICE constexpr void carry() {
    constexpr int digits = 50;
    middle += low >> digits;
    low -= (low >> digits) * (std::int64_t{1} << digits);
    high += middle >> digits;
    middle -= (middle >> digits) * (std::int64_t{1} << digits);
  }
  CTRAIN_HOST_DEVICE constexpr void add(const ExactSum& other) {
    high += other.high, middle += other.middle, low += other.low;
    not_finite += other.not_finite;
    carry();
  }
  /// Infinity where a summand was not finite.
  CTRAIN_HOST_DEVICE constexpr double value() const {
    if (not_finite != 0) return double(INFINITY);
    return (double(low) * 0x1p-84 + double(middle) * 0x1p-34) + double(high) * 0x1p16;
  }
  friend constexpr bool operator==(const ExactSum&, const ExactSum&) = default;
};

/// Elements whose sum is taken at once.
inline constexpr std::int64_t squares_chunk = 65536;

/// The sum of squares of `count` elements, at most squares_chunk, from a multiple of 16 on.
template <class G> CTRAIN_HOST_DEVICE ExactSum sum_of_squares(const G* values, std::int64_t count) {
  const auto square = [&](std::int64_t i) {
    const double x = i < count ? double(float(values[i])) : 0.0;
    return x * x;
  };
  ExactSum sum;
  for (std::int64_t first = 0; first < count; first += 16) {
    for (std::int64_t i = first; i < first + 8; ++i) sum.add(square(i) + square(i + 8));
    if (first / 16 % (ExactSum::most_uncarried / 8) == 0) sum.carry();
  }
  sum.carry();
  return sum;
}

}  // namespace ctrain
