/// \file  Products that read a row-major weight where it stands, without a copy of it.   floor 5: backend
#pragma once

#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/multiply.hpp>
#include <ctrain/backend/cpu/products.hpp>
#include <ctrain/backend/cpu/rows.hpp>
#include <ctrain/backend/cpu/threads.hpp>
#include <ctrain/backend/cpu/tiles.hpp>

#include <atomic>
#include <bit>

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

/// Share i of `shares` nearly equal runs of `total` things.
struct Share {
  int begin = 0, end = 0;

  int size() const { return end - begin; }
  static CTRAIN_INLINE Share of(int total, int i, int shares) {
    return {int(std::int64_t(i) * total / shares), int(std::int64_t(i + 1) * total / shares)};
  }
};

/// Rows [first, ...) of a matrix, to be asked for while a tile is computed.
template <class W> Ahead rows_ahead(const Block<const W>& part, int first) {
  const unsigned lines = unsigned(part.columns * sizeof(W) + 63) / 64;
  return {reinterpret_cast<const char*>(part.row(first)), part.stride * std::ptrdiff_t(sizeof(W)),
          int(std::bit_width(lines - 1))};
}

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
/// 2008). A chunk of the weight is made ready in shares between the tiles of the chunk before: rows
/// a power of two apart share few places in a cache, so what is fetched must be used soon. Each sum
/// runs in order: its bits depend on its operands alone. All scratch memory is taken by the
/// constructor.
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
    const int in = call.weight.in, out = call.weight.out, team = team_of(call.rows, in, out);
    const Split across = Split::of((in + panel_columns - 1) / panel_columns, input_panels<W>, team);
    const Split down =
        Split::of((call.rows + tile_height - 1) / tile_height, input_rows / tile_height, 1);
    const auto area_of = [&](int unit) {
      const int p = unit % across.pieces, t = unit / across.pieces;
      const int row = down.begin(t) * tile_height, column = across.begin(p) * panel_columns;
      return Area{row, std::min(down.end(t) * tile_height, call.rows) - row, column,
                  std::min(across.end(p) * panel_columns, in) - column};
    };
    staged(
        across.pieces * down.pieces, chunks_of<T>(out), team,
        [&](const Turn& turn, int i, int shares) {
          const Area at = area_of(turn.unit);
          const Share depth = depth_of<T>(out, turn.chunk);
          return pack_weight(staged_at<T>(turn),
                             Block<const W>{weight + std::int64_t(depth.begin) * in + at.column, in,
                                            depth.size(), at.columns},
                             i, shares);
        },
        [&](const Turn& turn, auto&& meanwhile) {
          input_chunk(call, area_of(turn.unit), turn, meanwhile);
        });
  }

 private:
  static constexpr bytes shared_bytes = 8 * MiB;
  static constexpr int forward_panels = 8;      // of x, at a time
  static constexpr int input_rows = most_rows;  // of dz, at a time
  /// Panels of a weight that are packed at a time: 512 bytes of each row.
  template <class W> static constexpr int input_panels = 512 / int(sizeof(W)) / panel_columns;

  /// A worker's scratch: two parts of a weight, one in use and one being made ready, and sums.
  struct Own {
    alignas(64) float staged[2][4 * chunk_groups * panel_columns];
    alignas(64) float sums[4 * (input_rows + tile_height) * panel_columns];
  };
  static_assert(sizeof(Own::staged[0]) >= block_rows * chunk_groups * sizeof(float));
  static_assert(sizeof(Own::sums) >= forward_panels * block_rows * panel_columns * sizeof(float));

  Own& own(int worker) { return reinterpret_cast<Own*>(arena_.base() + shared_bytes)[worker]; }
  template <class T> T* shared() { return reinterpret_cast<T*>(arena_.base()); }

  /// Threads worth waking for so many multiply-adds.
  int team_of(int rows, int out, int in) const {
    return std::int64_t(rows) * out * in < 1 << 18 ? 1 : threads_.count;
  }

  /// Where a worker is: in which unit, in which chunk of its depth, and in which half of its
  /// scratch that chunk stands.
  struct Turn {
    int worker = 0, unit = 0, chunk = 0, half = 0;
  };
  /// A part of a result.
  struct Area {
    int row = 0, rows = 0, column = 0, columns = 0;
  };

  template <class T> T* staged_at(const Turn& turn) {
    return reinterpret_cast<T*>(own(turn.worker).staged[turn.half]);
  }
  template <class T> static int chunks_of(int depth) {
    constexpr int chunk = chunk_groups * Panels<T>::group;
    return (depth + chunk - 1) / chunk;
  }
  template <class T> static Share depth_of(int depth, int chunk) {
    constexpr int size = chunk_groups * Panels<T>::group;
    return {chunk * size, std::min((chunk + 1) * size, depth)};
  }

  /// Workers take units one by one, each of `chunks` chunks. stage(turn, i, n) makes share i of n
  /// of a chunk ready; multiply(turn, meanwhile) computes one that is, and calls meanwhile(i, n) in
  /// between for the next: a worker takes its next unit before its last chunk.
  template <class Stage, class Multiply>
  void staged(int units, int chunks, int team, Stage&& stage, Multiply&& multiply) {
    constexpr int first_shares = 32;
    std::atomic<int> next{0};
    threads_.together(team, [&](int worker) {
      Turn now{worker, next++, 0, 0};
      for (int i = 0; now.unit < units && i < first_shares; ++i) stage(now, i, first_shares);
      while (now.unit < units) {
        const bool last = now.chunk + 1 == chunks;
        const Turn then{worker, last ? next++ : now.unit, last ? 0 : now.chunk + 1, 1 - now.half};
        multiply(now, [&](int i, int shares) {
          return then.unit < units ? stage(then, i, shares) : Ahead{};
        });
        now = then;
      }
    });
  }

  /// sums (rows, 64) = or += a * panel, for turn `turn` of `turns` of a chunk.
  template <class T, class Meanwhile>
  static void multiply_chunk(Sums sums, const FactorRows<T>& a, int rows, const T* panel,
                             int columns, int groups, Meanwhile&& meanwhile, int turn, int turns) {
    const int tiles = (rows + tile_height - 1) / tile_height;
    multiply_tiles(sums, a, rows, panel, columns, groups,
                   [&](int t) { return meanwhile(turn * tiles + t, turns * tiles); });
  }

  /// Rows [row, row + rows) of x as columns of panels.
  template <class T> void pack_x(const LinearForward<T>& call, int row, int rows) {
    const int in = call.weight.in;
    const auto panels = Panels<T>::even(in, rows);
    const int chunks = (panels.groups() + chunk_groups - 1) / chunk_groups;
    threads_.each(chunks * panels.count(), std::int64_t(rows) * in, [&](std::int64_t i) {
      const int p = int(i) / chunks, start = int(i) % chunks * chunk_groups;
      const int end = std::min(start + chunk_groups, panels.groups()), columns = panels.columns(p);
      const T* from = call.x + std::int64_t(row + p * panels.wide) * in;
      T* const panel = shared<T>() + p * panels.stride();
      for (int g = start; g < end; g += simd::width)
        for (int c = 0; c < columns; c += simd::width)
          transpose_words(panel + (std::int64_t(g) * columns + c) * panels.group,
                          columns * panels.group, from + std::int64_t(c) * in + g * panels.group,
                          in, std::min(panels.wide, rows - p * panels.wide) - c,
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
    const auto area_of = [&](int unit) {
      const int first = units.begin(unit) * tile_height;
      return Area{row, rows, first, std::min(units.end(unit) * tile_height, out) - first};
    };
    const auto part_of = [&](const Turn& turn) {
      const Area at = area_of(turn.unit);
      const Share depth = depth_of<T>(in, turn.chunk);
      return Block<const W>{weight + std::int64_t(at.column) * in + depth.begin, in, at.columns,
                            depth.size()};
    };
    staged(
        units.pieces, chunks_of<T>(in), team,
        [&](const Turn& turn, int i, int shares) {
          return round_rows(staged_at<T>(turn), part_of(turn), i, shares);
        },
        [&](const Turn& turn, auto&& meanwhile) {
          forward_chunk(call, area_of(turn.unit), rows_of(staged_at<T>(turn), part_of(turn)), turn,
                        meanwhile);
        });
  }

  /// Adds a chunk to z of an area. Sums: (columns, 64) for every panel of x.
  template <class T, class Meanwhile>
  void forward_chunk(const LinearForward<T>& call, const Area& at, const FactorRows<T>& factor,
                     const Turn& turn, Meanwhile&& meanwhile) {
    constexpr int group = Panels<T>::group;
    const auto panels = Panels<T>::even(call.weight.in, at.rows);
    const Share depth = depth_of<T>(call.weight.in, turn.chunk);
    Own& own = this->own(turn.worker);
    for (int p = 0; p < panels.count(); ++p) {
      const T* const panel =
          shared<T>() + p * panels.stride() + std::int64_t(depth.begin) * panels.columns(p);
      multiply_chunk({sums_of(own, p, at.columns), panel_columns, turn.chunk > 0}, factor,
                     at.columns, panel, panels.columns(p), depth.size() / group, meanwhile, p,
                     panels.count());
    }
    if (depth.end < call.weight.in) return;
    for (int p = 0; p < panels.count(); ++p)
      finish_forward(call, sums_of(own, p, at.columns), at.row + p * panels.wide,
                     std::min(panels.wide, at.rows - p * panels.wide), at.column, at.columns);
  }

  /// The sums of panel p; a tile may write 5 rows more than there are.
  static float* sums_of(Own& own, int p, int rows) {
    return own.sums + p * (rows + tile_height) * panel_columns;
  }

  /// Rows to broadcast: where they stand, or where round_rows() puts them.
  template <class T, class W>
  static FactorRows<T> rows_of(const T* rounded, const Block<const W>& part) {
    if constexpr (dtype_of<T> == dtype_of<W>)
      return {part.first, part.stride, Panels<T>::group};
    else
      return {rounded, part.columns, Panels<T>::group};
  }

  /// Share i of the rows of a part, rounded if that is needed; says what to ask for next.
  template <class T, class W>
  static Ahead round_rows(T* to, const Block<const W>& part, int i, int shares) {
    const Share rows = Share::of(part.rows, i, shares);
    if constexpr (dtype_of<T> != dtype_of<W>)
      for (int r = rows.begin; r < rows.end; ++r)
        simd::each_lanes(part.columns, [&](int c, auto some) {
          simd::store(to + r * part.columns + c, simd::load(part.row(r) + c, some), some);
        });
    return rows_ahead(part, dtype_of<T> == dtype_of<W> ? rows.begin : rows.end);
  }

  /// z = transposed sums + bias.
  template <class T>
  static void finish_forward(const LinearForward<T>& call, const float* sums, int row, int rows,
                             int column, int columns) {
    const int out = call.weight.out;
    simd::each_lanes(columns, [&](int c, auto some) {
      const simd::Lanes bias = bias_lanes(call.bias, column + c, some);
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

  /// Adds a chunk to dx of an area.
  template <class T, class DX, class Meanwhile>
  void input_chunk(const LinearBackwardInput<T, DX>& call, const Area& at, const Turn& turn,
                   Meanwhile&& meanwhile) {
    constexpr int group = Panels<T>::group;
    const int in = call.weight.in, out = call.weight.out;
    const Share depth = depth_of<T>(out, turn.chunk);
    const Panels<T> panels{depth.size(), at.columns};
    const FactorRows<T> factor{call.dz + std::int64_t(at.row) * out + depth.begin, out, group};
    Own& own = this->own(turn.worker);
    for (int p = 0; p < panels.count(); ++p)
      multiply_chunk({sums_of(own, p, at.rows), panel_columns, turn.chunk > 0}, factor, at.rows,
                     staged_at<T>(turn) + p * panels.stride(), panels.columns(p), panels.groups(),
                     meanwhile, p, panels.count());
    if (depth.end < out) return;
    for (int p = 0; p < panels.count(); ++p)
      each_of_block(
          sums_of(own, p, at.rows), at.rows,
          std::min(panel_columns, at.columns - p * panel_columns),
          [&](int r, int c, simd::Lanes sum, auto some) {
            put(call.dx + std::int64_t(at.row + r) * in + at.column + p * panel_columns + c, sum,
                call.accumulate_input, some);
          });
  }

  /// Share i of the groups of rows of a part into panels, along the rows; says what to
  /// ask for next.
  template <class T, class W>
  static Ahead pack_weight(T* to, const Block<const W>& part, int i, int shares) {
    const Panels<T> panels{part.rows, part.columns};
    const Share groups = Share::of(panels.groups(), i, shares);
    for (int g = groups.begin; g < groups.end; ++g)
      for (int p = 0; p < panels.count(); ++p) {
        const int columns = panels.columns(p), first = p * panel_columns;
        T* const group = to + p * panels.stride() + g * columns * panels.group;
        const W* const rows = part.row(g * panels.group) + first;
        simd::each_lanes(std::min(panel_columns, panels.width - first), [&](int c, auto some) {
          store_columns(group + c * panels.group, rows + c, part.stride, some);
        });
      }
    return rows_ahead(part, groups.end * panels.group);
  }

  Threads threads_;
  Arena arena_;
};

}  // namespace ctrain::cpu
