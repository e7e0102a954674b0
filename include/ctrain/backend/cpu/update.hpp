/// \file  The update: norm of the gradient; clip, AdamW and the panels of weights in one pass over memory.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/pack.hpp>
#include <ctrain/backend/cpu/simd.hpp>
#include <ctrain/backend/cpu/threads.hpp>
#include <ctrain/backend/math/adamw.hpp>
#include <ctrain/backend/math/sum_of_squares.hpp>

namespace ctrain::cpu {

/// sum_of_squares(), 16 elements at a time.
template <class G> ExactSum sum_of_squares_of_chunk(const G* values, std::int64_t count) {
  static_assert(squares_chunk / simd::width <= ExactSum::most_uncarried);
  simd::SquareSums sums;
  simd::each_lanes(int(count),
                   [&](int i, auto some) { sums.add_squares(simd::load(values + i, some)); });
  return sums.total();
}

template <class G> void compute(const SumOfSquaresOf<G>& call, const Threads& threads) {
  constexpr std::int64_t window = 512;  // chunks whose sums wait on the stack
  const std::int64_t chunks = (call.count + squares_chunk - 1) / squares_chunk;
  for (std::int64_t start = 0; start < chunks; start += window) {
    ExactSum sums[window];
    const std::int64_t here = std::min(window, chunks - start);
    threads.each_uneven(here, threads.count, [&](std::int64_t i, int) {
      const std::int64_t first = (start + i) * squares_chunk;
      sums[i] =
          sum_of_squares_of_chunk(call.values + first, std::min(squares_chunk, call.count - first));
    });
    for (std::int64_t i = 0; i < here; ++i) call.sum->add(sums[i]);
  }
}

template <OptimizerKind Kind, class G>
void adamw_range(const AdamWUpdateOf<G>& call, const AdamWFactors& factors, std::int64_t first,
                 std::int64_t count) {
  float* weight = call.weight + first;
  float* first_moment = call.first_moment + first;
  float* second_moment = call.second_moment + first;
  const G* gradient = call.gradient + first;
  simd::each_lanes(int(count), [&](int i, auto some) {
    const AdamWElement<simd::Lanes> before{simd::load(weight + i, some),
                                           simd::load(first_moment + i, some),
                                           simd::load(second_moment + i, some)};
    const auto after = adamw<Kind>(before, simd::load(gradient + i, some), factors);
    simd::store(weight + i, after.weight, some);
    simd::store(first_moment + i, after.first_moment, some);
    simd::store(second_moment + i, after.second_moment, some);
  });
}

template <class G> void compute(const AdamWUpdateOf<G>& call, const Threads& threads) {
  constexpr std::int64_t piece = 16384;
  if (is_skipped(call)) return;
  const AdamWFactors factors = factors_of(call);
  threads.each_uneven((call.count + piece - 1) / piece, threads.count, [&](std::int64_t i, int) {
    const std::int64_t first = i * piece, count = std::min(piece, call.count - first);
    with_adam_kind(call.kind, [&](auto kind) { adamw_range<kind>(call, factors, first, count); });
  });
}

/// AdamW on rows of the weight `master`, and the panels of what it has made of them, while that is
/// in the caches: 16 rows by some columns at a time.
template <class T, class G>
void update_into_panels(const AdamWUpdateOf<G>& call, const BothPanels<T>& panels,
                        const float* master, const RowRange& rows, const Threads& threads) {
  // Columns. Measured with AVX-512: 2,048 in 0.90 of the time of 1,024, with rows as long as that.
  constexpr int strip = simd::tile_lanes > 1 ? 2048 : 1024;
  if (is_skipped(call)) return;
  const AdamWFactors factors = factors_of(call);
  threads.each_uneven(rows.count / simd::width, threads.count, [&](std::int64_t i, int) {
    const int first = int(i) * simd::width;
    for (int begin = 0; begin < panels.in; begin += strip) {
      const int end = std::min(begin + strip, panels.in);
      with_adam_kind(call.kind, [&](auto kind) {
        for (std::int64_t r = first; r < first + simd::width; ++r)
          adamw_range<kind>(call, factors, r * panels.in + begin, end - begin);
      });
      panels.pack(master, rows.first + first, simd::width, begin, end);
    }
    simd::end_streaming();
  });
}

}  // namespace ctrain::cpu
