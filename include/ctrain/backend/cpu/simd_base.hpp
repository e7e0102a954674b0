/// \file  What 16 lanes are counted and unrolled by, whatever unit computes them.   floor 5: backend
#pragma once

#include <ctrain/backend/math/sum_of_squares.hpp>
#include <ctrain/core/config.hpp>

#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace ctrain::simd {

inline constexpr int width = 16;

/// f(0), f(1), ..., f(Count - 1) with constants: what f indexes stays in registers.
template <int Count, class F> CTRAIN_INLINE void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>{}), ...);
  }
  (std::make_integer_sequence<int, Count>{});
}

/// How many of 16 neighbours a load or store touches; a load sets the others to 0.
struct All {
  static constexpr int count = width;
};
struct Some {
  int count = 0;
};

/// f(column, All or Some) for every 16 columns of a row.
template <class F> CTRAIN_INLINE void each_lanes(int columns, F&& f) {
  int c = 0;
  for (; c + width <= columns; c += width) f(c, All{});
  if (c < columns) f(c, Some{columns - c});
}

/// The integers that lanes have summed for an ExactSum, each of `count` summands together with the
/// bits of its cut.
template <int Count> struct CutSums {
  std::uint64_t high[Count], middle[Count], low[Count];

  ExactSum total(std::int64_t count) const {
    const auto without = [count](std::uint64_t sum, double cut) {
      return std::int64_t(sum - std::uint64_t(count) * std::bit_cast<std::uint64_t>(cut));
    };
    ExactSum all;
    for (int i = 0; i < Count; ++i)
      all.add({.high = without(high[i], ExactSum::cut_high),
               .middle = without(middle[i], ExactSum::cut_middle),
               .low = without(low[i], ExactSum::cut_low)});
    return all;
  }
};

}  // namespace ctrain::simd
