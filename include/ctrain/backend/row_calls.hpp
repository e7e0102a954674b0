/// \file  Calls that run a row program over flat ranges, and those of sign compression.   floor 5: backend
#pragma once

#include <ctrain/backend/math/row_programs.hpp>
#include <ctrain/backend/math/sum_of_squares.hpp>

#include <cstdint>

namespace ctrain {

/// program.step() on every element of `state`; `gradient` where the program takes one.
template <class Program, class G = float> struct RunRows {
  Program program;
  float* state[Program::states] = {};
  std::int64_t count = 0;
  const G* gradient = nullptr;
};

/// Adds the sum of squares of function.of() over a range to *sum: exactly, as SumOfSquaresOf does.
template <class Function> struct SumSquaresOfRows {
  ExactSum* sum = nullptr;
  Function function;
  const float* state[Function::states] = {};
  std::int64_t count = 0;
};

/// *largest becomes the larger of itself and of function.of() over a range; both are not negative.
template <class Function> struct LargestOfRows {
  float* largest = nullptr;
  Function function;
  const float* state[Function::states] = {};
  std::int64_t count = 0;
};

/// function() once, where the backend computes: for the few numbers that a tensor has.
template <class Function> struct RunOnce { Function function; };

// sign compression -------------------------------------------------------------------------------

/// A rank's or a server's half: a chunk of what stands in `error` becomes one bit an element and
/// what was lost by that. scale = the root mean square of the `whole` elements whose squares are in
/// `sum`. Bit 7 of a byte is its first element, 1 for an element >= 0.
struct PackSigns {
  std::uint8_t* bits = nullptr;  // (count / 8)
  float* scale = nullptr;
  float* error = nullptr;  // (count)
  const ExactSum* sum = nullptr;
  std::int64_t whole = 0;
  std::int64_t count = 0;  // a multiple of 8
};

/// A server's half: to[i] += the mean over ranks of their scale times their sign i. What ranks have
/// sent is `stride` bytes apart.
struct AddMeanOfSigns {
  float* to = nullptr;                 // (count)
  const std::uint8_t* bits = nullptr;  // (count / 8) of the first rank
  const float* scales = nullptr;       // that of the first rank
  std::int64_t stride = 0;
  std::int64_t count = 0;  // a multiple of 8
  int ranks = 0;
};

/// to[i] = the chunk's scale times its sign i.
struct UnpackSigns {
  float* to = nullptr;                 // (count)
  const std::uint8_t* bits = nullptr;  // (count / 8, rounded up)
  const float* scale = nullptr;
  std::int64_t count = 0;
};

}  // namespace ctrain
