/// \file  Products that read a row-major weight where it stands, without a copy of it.   floor 5: backend
#pragma once

#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/multiply.hpp>
#include <ctrain/backend/cpu/rows.hpp>
#include <ctrain/backend/cpu/threads.hpp>

namespace ctrain::cpu {

/// `total` things in `pieces` runs of nearly equal length.
struct Split {
  int total = 0, pieces = 1;

  /// Runs of at most `most`, as many for each of `team` workers.
  static constexpr Split of(int total, int most, int team) {
    const int rounds = (total + most * team - 1) / (most * team);
    return {total, std::max(1, std::min(total, team * rounds))};
  }
  int begin(int piece) const { return int(std::int64_t(piece) * total / pieces); }
  int end(int piece) const { return begin(piece + 1); }
};

/// A part of a row-major matrix that will be read soon.
struct Soon {
  const char* first = nullptr;
  std::ptrdiff_t stride = 0;  // bytes from row to row
  int rows = 0, row_bytes = 0;

  /// Asks for the share of call i of `calls`. Lines may lie outside any object.
  CTRAIN_INLINE void ask(int i, int calls) const {
    constexpr int line = 64;
    const int across = (row_bytes + line - 1) / line, lines = rows * across;
    const int end = int(std::int64_t(i + 1) * lines / calls);
    int at = int(std::int64_t(i) * lines / calls);
    for (int row = at / across, column = at % across; at < end; ++at) {
      simd::prefetch(first + row * stride + column * line);
      if (++column == across) column = 0, ++row;
    }
  }
};

/// A group of 16 columns (or some): one row of a weight, or two as pairs of 16 bits.
template <class Count>
CTRAIN_INLINE void store_columns(float* to, const float* from, std::int64_t, Count some) {
  simd::store(to, simd::load(from, some), simd::All{});
}
template <Half T, class W, class Count>
CTRAIN_INLINE void store_columns(T* to, const W* from, std::int64_t stride, Count some) {
  simd::store_pairs(to, simd::load(from, some), simd::load(from + stride, some));
}

/// Linear layers' forward and backward products on weights of W = T, or float that are rounded to T
/// on the way. The operand that is broadcast is read in rows, the other from panels that are packed
/// for the nearer caches (Goto & van de Geijn, "Anatomy of high-performance matrix multiplication",
/// 2008), while the part of the weight that comes next is fetched. Each sum runs in order: its bits
/// depend on its operands alone. All scratch memory is taken by the constructor.
class DirectProducts {
 public:
  explicit DirectProducts(Threads threads)
      : threads_(threads), arena_(shared_bytes + threads.count * bytes(sizeof(Own))) {}

  /// Whether such a layer is served: whole groups along both sums, and a panel of x that fits.
  template <class T> static constexpr bool serves(int out, int in) {
    return out % Panels<T>::group == 0 && in % Panels<T>::group == 0 &&
           std::int64_t(in) * panel_columns * std::int64_t(sizeof(T)) <= shared_bytes;
  }

  template <class T, class W> void forward(const LinearForward<T>& call, const W* weight) {
    const std::int64_t panel = std::int64_t(call.weight.in) * panel_columns * sizeof(T);
    const int most = int(std::min<std::int64_t>(forward_panels, shared_bytes / panel));
    const int panels = (call.rows + panel_columns - 1) / panel_columns;
    const Split blocks = Split::of(panels, most, 1);
    for (int b = 0; b < blocks.pieces; ++b) {
      const int row = blocks.begin(b) * panel_columns;
      forward_rows(call, weight, row, std::min(blocks.end(b) * panel_columns, call.rows) - row);
    }
  }

  template <class T, class W, class DX>
  void backward_input(const LinearBackwardInput<T, DX>& call, const W* weight) {
    const int in = call.weight.in, panels = (in + panel_columns - 1) / panel_columns;
    const int team = team_of(call.rows, in, call.weight.out);
    const Split across = Split::of(panels, input_panels<W>, team);
    const int tiles = (call.rows + tile_height - 1) / tile_height;
    const Split down = Split::of(tiles, input_rows / tile_height, 1);
    threads_.each_uneven(across.pieces * down.pieces, team, [&](std::int64_t i, int worker) {
      const int p = int(i) % across.pieces, t = int(i) / across.pieces;
      const int row = down.begin(t) * tile_height, column = across.begin(p) * panel_columns;
      input_block(call, weight, row, std::min(down.end(t) * tile_height, call.rows) - row, column,
                  std::min(across.end(p) * panel_columns, in) - column, own(worker));
    });
  }

 private:
  static constexpr bytes shared_bytes = 8 * MiB;
  static constexpr int forward_panels = 8;  // of x, at a time
  static constexpr int input_rows = 258;    // of dz, at a time
  /// Panels of a weight that are packed at a time: 512 bytes of each row.
  template <class W> static constexpr int input_panels = 512 / int(sizeof(W)) / panel_columns;

  /// A worker's scratch.
  struct Own {
    alignas(64) float panels[4 * chunk_groups * panel_columns];
    alignas(64) float sums[4 * (input_rows + tile_height) * panel_columns];
  };
  static_assert(sizeof(Own::panels) >= block_rows * chunk_groups * sizeof(float));
  static_assert(sizeof(Own::sums) >= forward_panels * block_rows * panel_columns * sizeof(float));

  Own& own(int worker) { return reinterpret_cast<Own*>(arena_.base() + shared_bytes)[worker]; }
  template <class T> T* shared() { return reinterpret_cast<T*>(arena_.base()); }

  /// Threads worth waking for so many multiply-adds.
  int team_of(int rows, int out, int in) const {
    return std::int64_t(rows) * out * in < 1 << 18 ? 1 : threads_.count;
  }

  /// sums (rows, 64) = or += a * panel; tile by tile asks for its share of what comes soon.
  template <class T>
  static void multiply_chunk(Sums sums, const FactorRows<T>& a, int rows, const T* panel,
                             int columns, int groups, const Soon& soon, int turn, int turns) {
    const int tiles = (rows + tile_height - 1) / tile_height;
    for (int t = 0; t < tiles; ++t) {
      const int r = t * tile_height;
      soon.ask(turn * tiles + t, turns * tiles);
      const T* row[tile_height];
      for (int i = 0; i < tile_height; ++i)
        row[i] = a.first + std::min(r + i, rows - 1) * a.row_step;
      multiply_rows(sums.from_row(r), row, rows - r, a.group_step, panel, columns, groups,
                    Ahead{reinterpret_cast<const char*>(panel), 0});
    }
  }

  /// Rows [row, row + rows) of x as columns of panels.
  template <class T> void pack_x(const LinearForward<T>& call, int row, int rows) {
    const int in = call.weight.in;
    const Panels<T> panels{in, rows};
    const int chunks = (panels.groups() + chunk_groups - 1) / chunk_groups;
    threads_.each(chunks * panels.count(), std::int64_t(rows) * in, [&](std::int64_t i) {
      const int p = int(i) / chunks, start = int(i) % chunks * chunk_groups;
      const int end = std::min(start + chunk_groups, panels.groups()), columns = panels.columns(p);
      const T* from = call.x + std::int64_t(row + p * panel_columns) * in;
      T* const panel = shared<T>() + p * panels.stride();
      for (int g = start; g < end; g += simd::width)
        for (int c = 0; c < columns; c += simd::width)
          transpose_words(panel + (std::int64_t(g) * columns + c) * panels.group,
                          columns * panels.group, from + std::int64_t(c) * in + g * panels.group,
                          in, std::min(panel_columns, rows - p * panel_columns) - c,
                          std::min(simd::width, end - g));
    });
  }

  /// Words of `rows` rows, at most 16, become columns of `words` rows.
  template <class T>
  static void transpose_words(T* to, std::int64_t to_stride, const T* from, std::int64_t stride,
                              int rows, int words) {
    simd::Lanes tile[simd::width];
    for (int r = 0; r < simd::width; ++r)
      tile[r] = r >= rows              ? simd::Lanes(0.0f)
                : words == simd::width ? simd::load_words(from + r * stride, simd::All{})
                                       : simd::load_words(from + r * stride, simd::Some{words});
    simd::transpose(tile);
    for (int w = 0; w < words; ++w) simd::store_words(to + w * to_stride, tile[w]);
  }

  template <class T, class W>
  void forward_rows(const LinearForward<T>& call, const W* weight, int row, int rows) {
    const int in = call.weight.in, out = call.weight.out, team = team_of(rows, out, in);
    pack_x(call, row, rows);
    const Split units =
        Split::of((out + tile_height - 1) / tile_height, block_rows / tile_height, team);
    threads_.each_uneven(units.pieces, team, [&](std::int64_t unit, int worker) {
      const int first = units.begin(int(unit)) * tile_height;
      forward_block(call, weight, row, rows, first,
                    std::min(units.end(int(unit)) * tile_height, out) - first, own(worker));
    });
  }

  /// z of `rows` rows and `columns` columns. Sums: (columns, 64) for every panel of x.
  template <class T, class W>
  void forward_block(const LinearForward<T>& call, const W* weight, int row, int rows, int column,
                     int columns, Own& own) {
    constexpr int group = Panels<T>::group;
    const int in = call.weight.in;
    const Panels<T> panels{in, rows};
    const std::ptrdiff_t stride = in * std::ptrdiff_t(sizeof(W));
    const W* first = weight + std::int64_t(column) * in;
    for (int start = 0; start < panels.groups(); start += chunk_groups) {
      const int groups = std::min(chunk_groups, panels.groups() - start);
      const W* part = first + start * group;
      const bool last = start + groups == panels.groups();
      const Soon soon{reinterpret_cast<const char*>(last ? first + std::int64_t(columns) * in
                                                         : part + groups * group),
                      stride, columns, chunk_groups * group * int(sizeof(W))};
      const FactorRows<T> factor = rows_of<T>(part, in, columns, groups * group, own);
      for (int p = 0; p < panels.count(); ++p) {
        const T* panel =
            shared<T>() + p * panels.stride() + std::int64_t(start) * panels.columns(p) * group;
        multiply_chunk({sums_of(own, p, columns), panel_columns, start > 0}, factor, columns, panel,
                       panels.columns(p), groups, soon, p, panels.count());
      }
    }
    for (int p = 0; p < panels.count(); ++p)
      finish_forward(call, sums_of(own, p, columns), row + p * panel_columns,
                     std::min(panel_columns, rows - p * panel_columns), column, columns);
  }

  /// The sums of panel p; a tile may write 5 rows more than there are.
  static float* sums_of(Own& own, int p, int rows) {
    return own.sums + p * (rows + tile_height) * panel_columns;
  }

  /// Rows to broadcast: where they stand, or rounded into scratch.
  template <class T, class W>
  static FactorRows<T> rows_of(const W* from, std::int64_t stride, int rows, int columns,
                               Own& own) {
    if constexpr (dtype_of<T> == dtype_of<W>) {
      return {from, stride, Panels<T>::group};
    } else {
      T* const to = reinterpret_cast<T*>(own.panels);
      for (int r = 0; r < rows; ++r)
        simd::each_lanes(columns, [&](int c, auto some) {
          simd::store(to + r * columns + c, simd::load(from + r * stride + c, some), some);
        });
      return {to, columns, Panels<T>::group};
    }
  }

  /// z = transposed sums + bias.
  template <class T>
  static void finish_forward(const LinearForward<T>& call, const float* sums, int row, int rows,
                             int column, int columns) {
    const int out = call.weight.out;
    simd::each_lanes(columns, [&](int c, auto some) {
      const simd::Lanes bias = simd::load(call.bias + column + c, some);
      for (int r = 0; r < rows; r += simd::width) {
        simd::Lanes tile[simd::width];
        for (int i = 0; i < simd::width; ++i)
          tile[i] =
              simd::load(sums + std::min(c + i, columns - 1) * panel_columns + r, simd::All{});
        simd::transpose(tile);
        T* to = call.z + std::int64_t(row + r) * out + column + c;
        for (int i = 0; i < std::min(simd::width, rows - r); ++i)
          simd::store(to + std::int64_t(i) * out, tile[i] + bias, some);
      }
    });
  }

  /// dx of `rows` rows and `columns` columns.
  template <class T, class W, class DX>
  static void input_block(const LinearBackwardInput<T, DX>& call, const W* weight, int row,
                          int rows, int column, int columns, Own& own) {
    constexpr int group = Panels<T>::group;
    const int in = call.weight.in, out = call.weight.out, all_groups = out / group;
    const Panels<T> panels{chunk_groups * group, columns};
    T* const packed = reinterpret_cast<T*>(own.panels);
    for (int start = 0; start < all_groups; start += chunk_groups) {
      const int groups = std::min(chunk_groups, all_groups - start);
      const W* part = weight + std::int64_t(start) * group * in + column;
      const bool last = start + groups == all_groups;
      const Soon soon{
          reinterpret_cast<const char*>(last ? weight + column + columns
                                             : part + std::int64_t(groups) * group * in),
          in * std::ptrdiff_t(sizeof(W)), chunk_groups * group, columns * int(sizeof(W))};
      pack_weight(packed, panels, part, in, groups);
      const FactorRows<T> factor{call.dz + std::int64_t(row) * out + start * group, out, group};
      for (int p = 0; p < panels.count(); ++p)
        multiply_chunk({sums_of(own, p, rows), panel_columns, start > 0}, factor, rows,
                       packed + p * panels.stride(), panels.columns(p), groups, soon, p,
                       panels.count());
    }
    for (int p = 0; p < panels.count(); ++p)
      each_of_block(sums_of(own, p, rows), rows,
                    std::min(panel_columns, columns - p * panel_columns),
                    [&](int r, int c, simd::Lanes sum, auto some) {
                      put(call.dx + std::int64_t(row + r) * in + column + p * panel_columns + c,
                          sum, call.accumulate_input, some);
                    });
  }

  /// Groups of rows of a weight into panels, along the rows.
  template <class T, class W>
  static void pack_weight(T* to, const Panels<T>& panels, const W* from, std::int64_t stride,
                          int groups) {
    for (int g = 0; g < groups; ++g)
      for (int p = 0; p < panels.count(); ++p) {
        const int columns = panels.columns(p), first = p * panel_columns;
        T* const group = to + p * panels.stride() + g * columns * panels.group;
        const W* const rows = from + g * panels.group * stride + first;
        simd::each_lanes(std::min(panel_columns, panels.width - first), [&](int c, auto some) {
          store_columns(group + c * panels.group, rows + c, stride, some);
        });
      }
  }

  Threads threads_;
  Arena arena_;
};

}  // namespace ctrain::cpu
