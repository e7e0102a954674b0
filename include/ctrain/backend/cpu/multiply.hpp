/// \file  The product of some rows with one panel: all of the arithmetic of a step.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/pack.hpp>

#include <limits>

namespace ctrain::cpu {

/// Rows of A as the kernel reads them: group g of row r stands at first[r * row_step + g *
/// group_step].
template <class T> struct FactorRows {
  const T* first = nullptr;
  std::int64_t row_step = 0, group_step = 0;
};

/// Rows of a block of sums, and of the tile of it that stays in registers: in AVX-512 with 64
/// columns, 24 registers of sums, 4 of the panel and 1 of A; in AVX2 with 16, 12, 2 and 1.
inline constexpr int block_rows = 96, tile_height = 6;

/// Rows that meet a panel in one go, at most.
inline constexpr int most_rows = 258;

/// A prefetch a group: where the kernel will read next, a little in each group. Runs of 2^shift
/// cache lines, `step` bytes apart; what is asked for may lie outside any object.
struct Ahead {
  const char* from = nullptr;
  std::ptrdiff_t step = 0;
  int shift = 0;

  CTRAIN_INLINE void ask(int group) const {
    simd::prefetch(from + (group & ((1 << shift) - 1)) * 64 + (group >> shift) * step);
  }
};

/// Where a tile's sums go: a row every `stride` floats. `add` to what stands there; `stream` past
/// the caches.
struct Sums {
  float* first = nullptr;
  std::int64_t stride = 0;
  bool add = false, stream = false;

  Sums from_row(int r) const { return {first + r * stride, stride, add, stream}; }
  Sums from_column(int c) const { return {first + c, stride, add, stream}; }
};

/// sums (Rows, 16 * Vectors) = or += rows * panel, over `groups` groups.
template <int Rows, int Vectors, class T>
[[gnu::noinline]] void multiply_tile(Sums sums, const T* const* rows, std::int64_t group_step,
                                     const T* panel, int groups, Ahead ahead) {
  using Factor = simd::Factor<T>;
  constexpr int step = simd::width * Factor::group;
  simd::Lanes total[Rows][Vectors];
  const auto each_sum = [&](auto&& f) {
    simd::unrolled<Rows>([&](auto r) {
      simd::unrolled<Vectors>(
          [&](auto v) { f(total[r][v], sums.first + r * sums.stride + v * simd::width); });
    });
  };
  each_sum([&](simd::Lanes& sum, const float* before) {
    sum = sums.add ? simd::load(before, simd::All{}) : simd::Lanes(0.0f);
  });
  const T* row[Rows];
  simd::unrolled<Rows>([&](auto r) { row[r] = rows[r]; });
  for (int g = 0; g < groups; ++g) {
    Factor column[Vectors];
    simd::unrolled<Vectors>([&](auto v) { column[v] = Factor::load(panel + v * step); });
    panel += Vectors * step;
    ahead.ask(g);
    simd::unrolled<Rows>([&](auto r) {
      const Factor each = Factor::same(row[r] + g * group_step);
      simd::unrolled<Vectors>(
          [&](auto v) { total[r][v] = Factor::add_product(each, column[v], total[r][v]); });
    });
  }
  if (sums.stream)
    each_sum([&](const simd::Lanes& sum, float* to) { simd::stream(to, sum); });
  else
    each_sum([&](const simd::Lanes& sum, float* to) { simd::store(to, sum, simd::All{}); });
}

/// One tile of min(count, 6) rows, rounded up to an even number, or to 6 where the panel is narrow,
/// and of all columns of a panel: `sums` has room for those.
template <class T>
void multiply_rows(Sums sums, const T* const* rows, int count, std::int64_t group_step,
                   const T* panel, int columns, int groups, Ahead ahead) {
  const auto tile = [&](auto height, auto vectors) {
    multiply_tile<height, vectors, T>(sums, rows, group_step, panel, groups, ahead);
  };
  using std::integral_constant;
  constexpr integral_constant<int, tile_height> all;
  constexpr integral_constant<int, simd::tile_lanes> wide;
  if constexpr (simd::tile_lanes > 1) switch (columns / simd::width) {
      case 1:
        return tile(all, integral_constant<int, 1>{});
      case 2:
        return tile(all, integral_constant<int, 2>{});
      case 3:
        return tile(all, integral_constant<int, 3>{});
      default:
        break;
    }
  if (count > 4) return tile(all, wide);
  if (count > 2) return tile(integral_constant<int, 4>{}, wide);
  tile(integral_constant<int, 2>{}, wide);
}

/// Groups of a panel that stay in the nearer caches.
inline constexpr int chunk_groups = 256;

/// Groups of a panel that meet all rows of a block before the next do. With AVX-512 512 measured 3
/// % better than 256: sums are put down and taken up half as often.
inline constexpr int block_groups = simd::tile_lanes > 1 ? 512 : chunk_groups;

/// Rows and columns as tiles of 16 columns like to read them again and again: columns of a panel
/// side by side, and rows that do not begin a power of two apart, where they would share few places
/// of the nearest cache. A group, whatever its type, is a word of 32 bits.
template <class T> struct NearOperands {
  static constexpr int group = Panels<T>::group;
  static constexpr int row_step = (block_groups + simd::width) * group;
  alignas(64) T columns[block_groups * simd::width * group];
  alignas(64) T rows[most_rows * row_step];

  /// Columns [first, first + 16) of a panel of `width`.
  void take_columns(const T* panel, int width, int first, int groups) {
    const T* from = panel + first * group;
    for (int g = 0; g < groups; ++g, from += width * group)
      simd::store_words(columns + g * simd::width * group, simd::load_words(from, simd::All{}));
  }
  /// Rows [first, first + 6) of `count`, or as many as there are, of a factor that stands in rows.
  void take_rows(const FactorRows<T>& a, int first, int count, int groups) {
    for (int r = first; r < std::min(first + tile_height, count); ++r)
      simd::each_lanes(groups, [&](int g, auto some) {
        simd::store_words(rows + r * row_step + g * group,
                          simd::load_words(a.first + r * a.row_step + g * group, some));
      });
  }
  /// All rows of a factor that is a panel: its columns. Reads nothing past the last of them, where
  /// a matrix that is no packed panel may end.
  void take_transposed(const FactorRows<T>& a, int count, int groups) {
    simd::each_lanes(count, [&](int r, auto some) {
      for (int g = 0; g < groups; g += simd::width) {
        simd::Lanes tile[simd::width];
        for (int i = 0; i < simd::width; ++i)
          tile[i] = simd::load_words(
              a.first + std::min(g + i, groups - 1) * a.group_step + r * group, some);
        simd::transpose(tile);
        for (int i = 0; i < simd::width; ++i)
          simd::store_words(rows + (r + i) * row_step + g * group, tile[i]);
      }
    });
  }
};

/// sums (rows, columns) = or += a * panel of at most block_groups groups; ahead(t) says what tile t
/// of 6 rows asks for.
template <class T, class AheadOf>
void multiply_tiles(Sums sums, const FactorRows<T>& a, int rows, const T* panel, int columns,
                    int groups, AheadOf&& ahead) {
  const auto tile = [&](const Sums& to, const FactorRows<T>& from, int r, const T* at, int width,
                        Ahead ask) {
    const T* row[tile_height];
    for (int i = 0; i < tile_height; ++i)
      row[i] = from.first + std::min(r + i, rows - 1) * from.row_step;
    multiply_rows(to.from_row(r), row, rows - r, from.group_step, at, width, groups, ask);
  };
  if constexpr (simd::tile_lanes > 1) {
    for (int r = 0; r < rows; r += tile_height)
      tile(sums, a, r, panel, columns, ahead(r / tile_height));
  } else {
    NearOperands<T> near;
    const FactorRows<T> near_rows{near.rows, near.row_step, near.group};
    const bool is_panel = a.row_step == near.group && a.group_step != near.group;
    if (is_panel) near.take_transposed(a, rows, groups);
    for (int c = 0; c < columns; c += simd::width) {
      near.take_columns(panel, columns, c, groups);
      for (int r = 0; r < rows; r += tile_height) {
        if (c == 0 && !is_panel) near.take_rows(a, r, rows, groups);
        tile(sums.from_column(c), near_rows, r, near.columns, simd::width,
             c == 0 ? ahead(r / tile_height) : Ahead{reinterpret_cast<const char*>(near.columns)});
      }
    }
  }
}

/// sums (rows, 64) = or += a * panel of `groups` groups and `columns` columns. The groups are added
/// in order, whatever the rows: a row's sum does not depend on its neighbours.
template <class T>
void multiply_block(Sums sums, const FactorRows<T>& a, int rows, const T* panel, int columns,
                    int groups) {
  const int group_size = columns * Panels<T>::group;
  const int tiles = (rows + tile_height - 1) / tile_height;
  for (int start = 0; start < groups; start += block_groups) {
    const int here = std::min(block_groups, groups - start);
    const T* const part = panel + std::int64_t(start) * group_size;
    const char* const next = reinterpret_cast<const char*>(part + std::int64_t(here) * group_size);
    const std::ptrdiff_t step = std::ptrdiff_t(group_size * sizeof(T)) / tiles;
    multiply_tiles<T>(sums, {a.first + start * a.group_step, a.row_step, a.group_step}, rows, part,
                      columns, here, [&](int t) {
                        return Ahead{next + std::int64_t(t) * here * step, step};
                      });
    sums.add = true;
  }
}

/// multiply_block() on a (64, 64) tile of a larger matrix of sums, in place. Asks for the next
/// tile's sums and the panel that follows while one is computed. Sums that are put down in between
/// do not go past the caches.
template <class T>
void multiply_in_place(Sums sums, const FactorRows<T>& a, const T* panel, int groups) {
  constexpr int tiles = (panel_columns + tile_height - 1) / tile_height;
  constexpr int most = simd::tile_lanes > 1 ? std::numeric_limits<int>::max() : block_groups;
  const std::int64_t group_size = panel_columns * Panels<T>::group;
  const bool stream = sums.stream;
  for (int start = 0; start < groups; start += std::min(most, groups)) {
    const int here = std::min(most, groups - start);
    const T* const part = panel + start * group_size;
    const char* const next = reinterpret_cast<const char*>(part + here * group_size);
    const std::ptrdiff_t step = std::ptrdiff_t(group_size * sizeof(T)) / tiles;
    sums.stream = stream && start + here == groups;
    multiply_tiles<T>(sums, {a.first + start * a.group_step, a.row_step, a.group_step},
                      panel_columns, part, panel_columns, here, [&](int t) {
                        const Sums after = sums.from_row((t + 1) * tile_height);
                        for (int i = 0; sums.add && i < tile_height * panel_columns / simd::width;
                             ++i)
                          simd::prefetch(after.first + i / 4 * after.stride + i % 4 * simd::width);
                        return Ahead{next + std::int64_t(t) * here * step, step};
                      });
    sums.add = true;
  }
}

/// f(row, column, sums, All or Some) for 16 columns at a time of a (rows, 64) block of sums.
template <class Finish> void each_of_block(const float* sums, int rows, int columns, Finish&& f) {
  for (int r = 0; r < rows; ++r)
    simd::each_lanes(columns, [&](int c, auto some) {
      f(r, c, simd::load(sums + r * panel_columns + c, simd::All{}), some);
    });
}

/// A (rows, depth) times a (depth, width) operand, whose panels are packed on the stack as A's
/// type. finish(row, column, sums, All or Some) takes 16 columns at a time.
template <class T, class From, class Finish>
void multiply_small(const FactorRows<T>& a, int rows, const Operand<From>& b, Finish&& finish) {
  constexpr int depth_step = 512;  // panels of 128 KiB at most
  alignas(64) T panel[depth_step * panel_columns];
  alignas(64) float sums[block_rows * panel_columns];
  for (int p = 0; p * panel_columns < b.width; ++p)
    for (int first = 0; first < rows; first += block_rows) {
      const int count = std::min(block_rows, rows - first);
      if (b.depth == 0) std::fill_n(sums, count * panel_columns, 0.0f);
      for (int k = 0; k < b.depth; k += depth_step) {
        const Operand<From> part{b.at(k, 0), b.depth_step, b.column_step,
                                 std::min(depth_step, b.depth - k), b.width};
        const Panels<T> panels{part.depth, part.width};
        if (first == 0 || b.depth > depth_step)
          pack_panel<Use::now>(panel, part, p, 0, panels.groups() * panels.group);
        const FactorRows<T> from{a.first + first * a.row_step + k / panels.group * a.group_step,
                                 a.row_step, a.group_step};
        multiply_block<T>({sums, panel_columns, k > 0}, from, count, panel, panels.columns(p),
                          panels.groups());
      }
      each_of_block(sums, count, std::min(panel_columns, b.width - p * panel_columns),
                    [&](int r, int c, simd::Lanes sum, auto some) {
                      finish(first + r, p * panel_columns + c, sum, some);
                    });
    }
}

}  // namespace ctrain::cpu
