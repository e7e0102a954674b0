/// \file  Operands of a product as panels of 64 columns, in the order the kernel reads them.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd.hpp>
#include <ctrain/backend/cpu/threads.hpp>

#include <algorithm>

namespace ctrain::cpu {

inline constexpr int panel_columns = 64;

/// A (depth, width) operand B of C = A B in memory: element (k, n) is first[k * depth_step +
/// n * column_step]; one of the steps is 1.
template <class T> struct Operand {
  const T* first = nullptr;
  std::int64_t depth_step = 0, column_step = 0;
  int depth = 0, width = 0;

  const T* at(std::int64_t k, std::int64_t n) const {
    return first + k * depth_step + n * column_step;
  }
};

/// Where panels of T stand. In a panel come `groups` groups of neighbouring k (2 of 16 bits, or 1),
/// in a group the columns, in a column the neighbours: BA64b and BA64b2a in oneDNN's words.
template <class T> struct Panels {
  static constexpr int group = simd::Factor<T>::group;
  int depth = 0, width = 0;
  int wide = panel_columns;  // columns of each but the last, a multiple of 16

  /// As few panels as can be, of nearly equal width: a kernel of 16 columns is the slowest.
  static Panels even(int depth, int width) {
    const int count = (width + panel_columns - 1) / panel_columns;
    const int each = (width + count - 1) / std::max(1, count);
    return {depth, width, (each + simd::width - 1) / simd::width * simd::width};
  }

  /// Panels take exactly depth * width elements.
  bool exact() const { return depth % group == 0 && width % simd::width == 0; }
  int groups() const { return (depth + group - 1) / group; }
  int count() const { return (width + wide - 1) / wide; }
  /// Columns of panel p, filled up with zeros to a multiple of 16.
  int columns(int p) const {
    const int left = std::min(wide, width - p * wide);
    return (left + simd::width - 1) / simd::width * simd::width;
  }
  std::int64_t stride() const { return std::int64_t(wide) * group * groups(); }
  std::int64_t elements() const {
    return (count() - 1) * stride() + std::int64_t(columns(count() - 1)) * group * groups();
  }
};

/// Where packed operands are read: `later`, by another call, so they bypass the caches; `now`.
enum class Use : std::uint8_t { later, now };

template <Use When> CTRAIN_INLINE void store_group(float* to, const simd::Lanes* rows) {
  When == Use::later ? simd::stream(to, rows[0]) : simd::store(to, rows[0], simd::All{});
}
template <Use When, Half T> CTRAIN_INLINE void store_group(T* to, const simd::Lanes* rows) {
  When == Use::later ? simd::stream_pairs(to, rows[0], rows[1])
                     : simd::store_pairs(to, rows[0], rows[1]);
}

/// A 16 x 16 tile of the operand, one row of the depth in each Lanes.
template <class From>
CTRAIN_INLINE void load_tile(simd::Lanes (&rows)[simd::width], const Operand<From>& from, int k,
                             int n) {
  constexpr int ahead = 64;  // elements along a row; without it the reads are three times slower
  const std::int64_t step = from.column_step == 1 ? from.depth_step : from.column_step;
  const From* first = from.at(k, n);
  for (int i = 0; i < simd::width; ++i) simd::prefetch(first + i * step + ahead);
  for (int i = 0; i < simd::width; ++i) rows[i] = simd::load(first + i * step, simd::All{});
  if (from.column_step != 1) simd::transpose(rows);
}

/// load_tile() where the operand ends inside the tile: 0 beyond.
template <class From>
void load_edge(simd::Lanes (&rows)[simd::width], const Operand<From>& from, int k, int n) {
  for (int i = 0; i < simd::width; ++i) {
    float row[simd::width] = {};
    for (int j = 0; j < simd::width && k + i < from.depth && n + j < from.width; ++j)
      row[j] = float(*from.at(k + i, n + j));
    rows[i] = simd::load(row, simd::All{});
  }
}

/// Writes rows [begin, end) of the depth of panel p, which starts at `to`; begin is a multiple
/// of 16.
template <Use When, class T, class From>
void pack_panel(T* to, const Operand<From>& from, int p, int begin, int end) {
  constexpr int group = Panels<T>::group;
  const int columns = Panels<T>{from.depth, from.width}.columns(p);
  for (int k = begin; k < end; k += simd::width)
    for (int n = 0; n < columns; n += simd::width) {
      simd::Lanes rows[simd::width];
      const int column = p * panel_columns + n;
      const bool whole = k + simd::width <= from.depth && column + simd::width <= from.width;
      whole ? load_tile(rows, from, k, column) : load_edge(rows, from, k, column);
      for (int r = 0; r < std::min(simd::width, end - k); r += group)
        store_group<When>(to + std::int64_t(k + r) * columns + n * group, rows + r);
    }
  if (When == Use::later) simd::end_streaming();
}

/// Writes all panels, visiting `from` along its rows.
template <Use When, class T, class From>
void pack(T* to, const Operand<From>& from, const Threads& threads) {
  constexpr int strip = 32;  // rows of the depth
  const Panels<T> panels{from.depth, from.width};
  const int depth = panels.groups() * panels.group;
  const std::int64_t elements = std::int64_t(from.depth) * from.width;
  if (from.column_step == 1)
    threads.each((depth + strip - 1) / strip, elements, [&](std::int64_t i) {
      const int begin = int(i) * strip, end = std::min(depth, begin + strip);
      for (int p = 0; p < panels.count(); ++p)
        pack_panel<When>(to + p * panels.stride(), from, p, begin, end);
    });
  else
    threads.each(panels.count(), elements, [&](std::int64_t p) {
      pack_panel<When>(to + p * panels.stride(), from, int(p), 0, depth);
    });
}

/// The panels of W^T and those of W, of a row-major (out, in) weight for which both are exact.
template <class T> struct BothPanels {
  T* transposed = nullptr;
  T* straight = nullptr;
  int out = 0, in = 0;

  /// Writes what rows [first, first + rows) and columns [begin, end) of the weight are in both;
  /// `first`, `rows` and `begin` are multiples of 16. Others see it after end_streaming().
  void pack(const float* weight, int first, int rows, int begin, int end) const {
    constexpr int group = Panels<T>::group;
    const Panels<T> across{in, out}, along{out, in};
    const Operand<float> from{weight, in, 1, out, in};
    for (int k = begin; k < end; k += simd::width) {
      const int q = k / panel_columns, wide = along.columns(q);
      for (int n = first; n < first + rows; n += simd::width) {
        const int p = n / panel_columns, columns = across.columns(p);
        T* const down = straight + q * along.stride() + k % panel_columns * group;
        T* const over = transposed + p * across.stride() + n % panel_columns * group;
        simd::Lanes tile[simd::width];
        load_tile(tile, from, n, k);
        for (int r = 0; r < simd::width; r += group)
          store_group<Use::later>(down + std::int64_t(n + r) * wide, tile + r);
        simd::transpose(tile);
        for (int r = 0; r < simd::width; r += group)
          store_group<Use::later>(over + std::int64_t(k + r) * columns, tile + r);
      }
    }
  }

  /// All of the weight.
  void pack(const float* weight, const Threads& threads) const {
    threads.each((out + panel_columns - 1) / panel_columns, std::int64_t(out) * in,
                 [&](std::int64_t p) {
                   const int first = int(p) * panel_columns;
                   pack(weight, first, std::min(panel_columns, out - first), 0, in);
                   simd::end_streaming();
                 });
  }
};

}  // namespace ctrain::cpu
