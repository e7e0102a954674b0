/// \file  Row programs, their sums, and sign compression, 16 elements at a time.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd.hpp>
#include <ctrain/backend/cpu/threads.hpp>
#include <ctrain/backend/math/sign_compression.hpp>
#include <ctrain/backend/row_calls.hpp>

#include <algorithm>

namespace ctrain::cpu {

/// f(first, count) for pieces of a flat range.
template <class F> void each_piece(const Threads& threads, std::int64_t count, F&& f) {
  constexpr std::int64_t piece = 16384;
  threads.each_uneven((count + piece - 1) / piece, threads.count, [&](std::int64_t i, int) {
    f(i * piece, std::min(piece, count - i * piece));
  });
}

/// 16 elements (or some) of every array.
template <int States, class T, class Count>
CTRAIN_INLINE void load_states(simd::Lanes (&x)[States], T* const (&state)[States], std::int64_t at,
                               Count some) {
  for (int s = 0; s < States; ++s) x[s] = simd::load(state[s] + at, some);
}

template <class Program, class G>
void compute(const RunRows<Program, G>& call, const Threads& threads) {
  const auto program = call.program.ready();
  each_piece(threads, call.count, [&](std::int64_t first, std::int64_t count) {
    simd::each_lanes(int(count), [&](int c, auto some) {
      simd::Lanes x[Program::states], gradient = 0.0f;
      load_states(x, call.state, first + c, some);
      if constexpr (Program::takes_gradient) gradient = simd::load(call.gradient + first + c, some);
      program.step(x, gradient);
      for (int s = 0; s < Program::written; ++s) simd::store(call.state[s] + first + c, x[s], some);
    });
  });
}

/// fold(of one chunk, in order) for chunks of a flat range, which `of_chunk` computes in parallel.
template <class Result, class OfChunk, class Fold>
void fold_chunks(const Threads& threads, std::int64_t count, OfChunk&& of_chunk, Fold&& fold) {
  constexpr std::int64_t window = 256;  // chunks whose results wait on the stack
  const std::int64_t chunks = (count + squares_chunk - 1) / squares_chunk;
  for (std::int64_t start = 0; start < chunks; start += window) {
    Result results[window];
    const std::int64_t here = std::min(window, chunks - start);
    threads.each_uneven(here, threads.count, [&](std::int64_t i, int) {
      const std::int64_t first = (start + i) * squares_chunk;
      results[i] = of_chunk(first, std::min(squares_chunk, count - first));
    });
    for (std::int64_t i = 0; i < here; ++i) fold(results[i]);
  }
}

/// The lanes of function.of() that stand for elements; 0 in the others.
template <class Function, class Count>
CTRAIN_INLINE simd::Lanes value_of(const Function& function,
                                   const float* const (&state)[Function::states], std::int64_t at,
                                   Count some) {
  simd::Lanes x[Function::states];
  load_states(x, state, at, some);
  const simd::Lanes value = function.of(x);
  if constexpr (std::is_same_v<Count, simd::All>) return value;
  float lanes[simd::width];
  simd::store(lanes, value, simd::All{});
  return simd::load(lanes, some);
}

template <class Function>
void compute(const SumSquaresOfRows<Function>& call, const Threads& threads) {
  fold_chunks<ExactSum>(
      threads, call.count,
      [&](std::int64_t first, std::int64_t count) {
        simd::SquareSums sums;
        simd::each_lanes(int(count), [&](int c, auto some) {
          sums.add_squares(value_of(call.function, call.state, first + c, some));
        });
        return sums.total();
      },
      [&](const ExactSum& sum) { call.sum->add(sum); });
}

template <class Function>
void compute(const LargestOfRows<Function>& call, const Threads& threads) {
  fold_chunks<float>(
      threads, call.count,
      [&](std::int64_t first, std::int64_t count) {
        simd::Lanes most = 0.0f;
        simd::each_lanes(int(count), [&](int c, auto some) {
          most = simd::larger(value_of(call.function, call.state, first + c, some), most);
        });
        return simd::largest(most);
      },
      [&](float most) { *call.largest = std::max(*call.largest, most); });
}

template <class Function> void compute(const RunOnce<Function>& call, const Threads&) {
  call.function();
}

inline void compute(const PackSigns& call, const Threads& threads) {
  const float scale = sign_scale(*call.sum, call.whole);
  each_piece(threads, call.count, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t i = first; i < first + count; i += 8)
      call.bits[i / 8] = pack_signs(call.error + i, scale);
  });
  *call.scale = scale;
}

inline void compute(const AddMeanOfSigns& call, const Threads& threads) {
  each_piece(threads, call.count, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t i = first; i < first + count; ++i)
      call.to[i] +=
          mean_of_signs(call.bits + i / 8, call.scales, call.stride, call.ranks, int(i % 8));
  });
}

inline void compute(const UnpackSigns& call, const Threads& threads) {
  each_piece(threads, call.count, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t i = first; i < first + count; ++i)
      call.to[i] = *call.scale * sign_of(call.bits[i / 8], int(i % 8));
  });
}

}  // namespace ctrain::cpu
