/// \file  The fixed tree in which squares are summed.   floor 5: backend
#pragma once

#include <ctrain/core/config.hpp>

#include <cstdint>

namespace ctrain {

/// Elements of a chunk; element i of one goes to running sum i % squares_lanes.
inline constexpr std::int64_t squares_chunk = 65536;
inline constexpr int squares_lanes = 16;

/// A chunk's sum from its running sums.
CTRAIN_HOST_DEVICE inline double fold_squares(const double* lanes) {
  double sum = 0;
  for (int lane = 0; lane < squares_lanes; ++lane) sum += lanes[lane];
  return sum;
}

/// The sum of squares of one chunk of `count` elements, at most squares_chunk. A float's square is
/// exact in double, so it does not matter whether product and sum are fused.
template <class G> CTRAIN_HOST_DEVICE double sum_of_squares(const G* values, std::int64_t count) {
  double lanes[squares_lanes] = {};
  for (std::int64_t i = 0; i < count; ++i)
    lanes[i % squares_lanes] += double(float(values[i])) * double(float(values[i]));
  return fold_squares(lanes);
}

}  // namespace ctrain
