/// \file  Seconds that only go forward, for what takes how long.   floor 0: core
#pragma once

#include <chrono>

namespace ctrain {

/// Of a clock that all processes of one host share.
inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// From when to when something happened.
struct TimeSpan {
  double begin = 0, end = 0;  // steady_seconds()
};

}  // namespace ctrain
