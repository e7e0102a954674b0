/// \file  Unrolls a loop over a compile-time table.   floor 0: core
#pragma once

#include <ctrain/core/config.hpp>

#include <utility>

namespace ctrain {

/// Calls `body.template operator()<0>()` ... `<Count - 1>()`, in order.
template <int Count, class Body> CTRAIN_INLINE constexpr void each(Body&& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (body.template operator()<I>(), ...);
  }
  (std::make_integer_sequence<int, Count>{});
}

}  // namespace ctrain
