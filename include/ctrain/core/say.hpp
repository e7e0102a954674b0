/// \file  Words that exist only to be printed by a compiler.   floor 0: core
#pragma once

#include <ctrain/core/units.hpp>

namespace ctrain::say {

/// GiB<13, '.', 9> reads "13.9 GiB".
template <int Whole, char Point, int Tenths> struct GiB {};

/// The word for a byte count, rounded up: a plan over its budget never prints as equal to it.
template <bytes Count> struct in_GiB {
  static constexpr bytes tenths = (Count * 10 + ctrain::GiB - 1) / ctrain::GiB;
  using type = GiB<int(tenths / 10), '.', int(tenths % 10)>;
};
template <bytes Count> using gib = typename in_GiB<Count>::type;

}  // namespace ctrain::say
