/// \file  Small matrix products on strided rows, float or bf16 in, float inside.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd.hpp>

#include <algorithm>

namespace ctrain::cpu {

/// Some rows and columns of a matrix.
template <class T> struct Block {
  T* first = nullptr;
  std::int64_t stride = 0;  // elements from row to row
  int rows = 0, columns = 0;

  T* row(int r) const { return first + r * stride; }
  /// A row that may be read where a tile reaches beyond the block.
  T* nearest_row(int r) const { return row(std::min(r, rows - 1)); }
};

/// W as T: floats that stand for bf16 are rounded.
template <class T, class W, class Count>
CTRAIN_INLINE simd::Lanes load_as(const W* from, Count some) {
  const simd::Lanes whole = simd::load(from, some);
  if constexpr (sizeof(W) <= sizeof(T)) return whole;
  T rounded[simd::width];
  simd::store(rounded, whole, simd::All{});
  return simd::load(rounded, simd::All{});
}

/// products[i * stride + j] = dot(a row i, b row j as T), 4 x 4 at a time.
template <class T, class W>
void dot_products(float* products, int stride, Block<const T> a, Block<const W> b) {
  constexpr int tile = 4;
  for (int j = 0; j < b.rows; j += tile)
    for (int i = 0; i < a.rows; i += tile) {
      const T* left[tile];
      const W* right[tile];
      for (int t = 0; t < tile; ++t)
        left[t] = a.nearest_row(i + t), right[t] = b.nearest_row(j + t);
      simd::Lanes partial[tile * tile];
      for (simd::Lanes& lanes : partial) lanes = 0.0f;
      simd::each_lanes(a.columns, [&](int c, auto some) {
        simd::Lanes y[tile];
        for (int t = 0; t < tile; ++t) y[t] = load_as<T>(right[t] + c, some);
        for (int s = 0; s < tile; ++s) {
          const simd::Lanes x = simd::load(left[s] + c, some);
          for (int t = 0; t < tile; ++t)
            partial[s * tile + t] = simd::multiply_add(x, y[t], partial[s * tile + t]);
        }
      });
      float whole[tile * tile];
      simd::store(whole, simd::sums(partial), simd::All{});
      for (int s = 0; s < std::min(tile, a.rows - i); ++s)
        for (int t = 0; t < std::min(tile, b.rows - j); ++t)
          products[(i + s) * stride + j + t] = whole[s * tile + t];
    }
}

/// Weights of sums over rows: that of source row k in sum i is first[i * sum_step + k *
/// source_step].
template <class W> struct Coefficients {
  const W* first = nullptr;
  std::int64_t sum_step = 0, source_step = 0;
};

/// 4 sums i... of `Wide` times 16 columns from c, over all source rows in order.
template <int Wide, class To, class W, class T, class Count>
CTRAIN_INLINE void weighted_tile(Block<To> sums, Coefficients<W> by, Block<const T> source, int i,
                                 int c, Count some) {
  constexpr int tile = 4;
  const W* weight[tile];
  for (int s = 0; s < tile; ++s)
    weight[s] = by.first + std::min(i + s, sums.rows - 1) * by.sum_step;
  simd::Lanes total[tile][Wide];
  for (auto& row : total)
    for (simd::Lanes& lanes : row) lanes = 0.0f;
  for (int k = 0; k < source.rows; ++k) {
    simd::Lanes x[Wide];
    for (int w = 0; w < Wide; ++w) x[w] = load_as<W>(source.row(k) + c + w * simd::width, some);
    for (int s = 0; s < tile; ++s)
      for (int w = 0; w < Wide; ++w)
        total[s][w] = simd::multiply_add(float(weight[s][k * by.source_step]), x[w], total[s][w]);
  }
  for (int s = 0; s < std::min(tile, sums.rows - i); ++s)
    for (int w = 0; w < Wide; ++w)
      simd::store(sums.row(i + s) + c + w * simd::width, total[s][w], some);
}

/// Row i of `sums` = sum over k of coefficient(i, k) * source row k as W.
template <class To, class W, class T>
void weighted_sums(Block<To> sums, Coefficients<W> by, Block<const T> source) {
  constexpr int wide = 4 * simd::width;
  int c = 0;
  for (; c + wide <= sums.columns; c += wide)
    for (int i = 0; i < sums.rows; i += 4) weighted_tile<4>(sums, by, source, i, c, simd::All{});
  for (; c < sums.columns; c += simd::width)
    for (int i = 0; i < sums.rows; i += 4)
      weighted_tile<1>(sums, by, source, i, c, simd::Some{std::min(simd::width, sums.columns - c)});
}

}  // namespace ctrain::cpu
