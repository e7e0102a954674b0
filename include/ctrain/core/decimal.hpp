/// \file  The decimal number that someone wrote, from the float it became.   floor 0: core
#pragma once

#include <charconv>

namespace ctrain {

/// The shortest decimal that becomes this float: 0.999f stands for 0.999, not 0.99900001287. Where
/// a float parameter of a policy is compared with what others compute in double, the difference
/// counts (1 - 0.999f is off by 1.3e-5).
inline double as_written(float value) {
  char text[32];
  const auto written = std::to_chars(text, text + sizeof text, value);
  double result = 0;
  std::from_chars(text, written.ptr, result);
  return result;
}

}  // namespace ctrain
