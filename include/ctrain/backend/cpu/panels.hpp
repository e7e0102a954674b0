/// \file  Operands of products in the order in which tiles read them.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/product_tile.hpp>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(__CUDACC__)

namespace ctrain::cpu {

/// Rows of a matrix along which a sum runs: word s of column c joins rows s * word_group<T> and the
/// neighbours that follow. Rows beyond `rows` are zeros.
template <class T> struct SummedRows {
  const T* first = nullptr;
  std::int64_t stride = 0;  // elements from row to row
  int rows = 0;

  /// Word `step` of 16 (or some) columns from `column` on.
  template <class Count> CTRAIN_INLINE simd::Lanes words(int step, int column, Count some) const {
    const int row = step * word_group<T>;
    if (row >= rows) return 0.0f;
    const T* from = first + row * stride + column;
    const simd::Lanes even = simd::load(from, some);
    if constexpr (word_group<T> == 1) return even;
    const simd::Lanes odd = row + 1 < rows ? simd::load(from + stride, some) : simd::Lanes(0.0f);
    return _mm512_castsi512_ps(
        _mm512_or_si512(_mm512_maskz_srli_epi32(0xffff, _mm512_castps_si512(even.value), 16),
                        _mm512_castps_si512(odd.value)));
  }
};

CTRAIN_INLINE void store_words(Word* to, simd::Lanes words) {
  _mm512_storeu_si512(to, _mm512_castps_si512(words.value));
}

/// A panel (steps, panel_width) of `columns` columns from `column` on; the sum runs along the rows
/// of `from`, starting at word `step`.
template <class T>
void pack_rows(Word* panel, const SummedRows<T>& from, int step, int steps, int column,
               int columns) {
  for (int s = 0; s < steps; ++s)
    simd::each_lanes(columns, [&](int c, auto some) {
      store_words(panel + s * panel_width + c, from.words(step + s, column + c, some));
    });
}

/// to[c][s] = word `step` + s of column c, c in [0, columns): words of one column side by side.
/// steps is a multiple of 16.
template <class T>
void transpose_rows(Word* to, std::int64_t to_row, const SummedRows<T>& from, int step, int steps,
                    int column, int columns) {
  for (int s = 0; s < steps; s += simd::width)
    simd::each_lanes(columns, [&](int c, auto some) {
      simd::Lanes words[simd::width];
      for (int i = 0; i < simd::width; ++i) words[i] = from.words(step + s + i, column + c, some);
      simd::transpose(words);
      for (int i = 0; i < some.count; ++i) store_words(to + (c + i) * to_row + s, words[i]);
    });
}

/// A panel (steps, panel_width) whose columns are rows of `from`: `columns` of them, a word row of
/// `stride` bytes each, from `from` on. Columns up to the next multiple of 16 are zeros.
inline void pack_columns(Word* panel, const std::byte* from, std::ptrdiff_t stride, int steps,
                         int columns) {
  for (int c = 0; c < columns; c += simd::width)
    simd::each_lanes(steps, [&](int s, auto some) {
      simd::Lanes words[simd::width];
      for (int i = 0; i < simd::width; ++i)
        words[i] = c + i < columns
                       ? simd::Lanes(_mm512_maskz_loadu_ps(
                             simd::touched(some), from + (c + i) * stride + s * sizeof(Word)))
                       : simd::Lanes(0.0f);
      simd::transpose(words);
      for (int i = 0; i < some.count; ++i) store_words(panel + (s + i) * panel_width + c, words[i]);
    });
}

}  // namespace ctrain::cpu

#endif
