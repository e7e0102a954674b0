/// \file  Bytes and their multiples, the unit of every plan.   floor 0: core
#pragma once

#include <cstdint>

namespace ctrain {

/// A count of bytes. Signed, so that a difference of two sizes is a size too.
using bytes = std::int64_t;

inline constexpr bytes KiB = bytes{1} << 10;
inline constexpr bytes MiB = bytes{1} << 20;
inline constexpr bytes GiB = bytes{1} << 30;

/// The least multiple of `step` that is not less than `count`.
constexpr std::int64_t round_up(std::int64_t count, std::int64_t step) {
  return (count + step - 1) / step * step;
}

static_assert(round_up(65, 64) == 128 && round_up(64, 64) == 64 && round_up(0, 64) == 0);

}  // namespace ctrain
