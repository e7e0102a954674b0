/// \file  Matrix products on row-major weights, without copies of them.   floor 5: backend
#pragma once

#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/panels.hpp>
#include <ctrain/backend/cpu/threads.hpp>

#include <vector>

namespace ctrain::cpu {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(__CUDACC__)

constexpr int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

/// `total` things in `pieces` runs of nearly equal length.
struct Split {
  int total = 0, pieces = 1;

  /// Runs of at most `most`, as many for each of `team` workers.
  static constexpr Split of(int total, int most, int team) {
    return {total, std::min(total, team * ceil_div(total, most * team))};
  }
  int begin(int piece) const { return int(std::int64_t(piece) * total / pieces); }
  int end(int piece) const { return begin(piece + 1); }
};

/// The products of linear layers (LinearForward, LinearBackwardInput, LinearBackwardWeight) from
/// tiles of 6 x 64 sums (Goto & van de Geijn, "Anatomy of high-performance matrix multiplication",
/// 2008). The operand that is broadcast is read where it stands, the other from panels that are
/// packed on the way. Every sum runs along its words in order, whatever the threads, the rows of
/// the call and the blocks: bits depend on operands alone, and trailing rows of zeros change
/// nothing. All scratch memory is taken by the constructor.
class TileProducts {
 public:
  explicit TileProducts(Threads threads)
      : threads_(threads),
        arena_(shared_words * bytes(sizeof(Word)) +
               threads.count * own_words * bytes(sizeof(Word))) {}

  /// Whether the products of such a layer are made here: sums in whole words, panels that fit.
  template <class T> static constexpr bool serves(int out, int in) {
    constexpr int longest = shared_words / panel_width, widest = shared_words / 32 - 128;
    return has_tiles<T> && out % word_group<T> == 0 && in % word_group<T> == 0 &&
           std::max(out, in) / word_group<T> <= longest && out <= widest - in;
  }

  /// `weight` row-major (out, in), as in all products.
  template <class T> void forward(const LinearForward<T>& call, const T* weight) {
    const int words = call.weight.in / word_group<T>;
    const int most = std::min(forward_panels, shared_words / (words * panel_width)) * panel_width;
    for (int row = 0; row < call.rows; row += most)
      forward_rows(call, weight, row, std::min(most, call.rows - row));
  }

  template <class T, class DX>
  void backward_input(const LinearBackwardInput<T, DX>& call, const T* weight) {
    const int in = call.weight.in, out = call.weight.out;
    const int team = team_of(call.rows, in, out);
    const Split panels = Split::of(ceil_div(in, panel_width), input_panels, team);
    const Split tiles = Split::of(ceil_div(call.rows, tile_height), input_tiles, 1);
    threads_.each_uneven(panels.pieces * tiles.pieces, team, [&](std::int64_t i, int worker) {
      const int p = int(i) % panels.pieces, t = int(i) / panels.pieces;
      const int row = tiles.begin(t) * tile_height, column = panels.begin(p) * panel_width;
      input_block(call, weight, row, std::min(tiles.end(t) * tile_height, call.rows) - row, column,
                  std::min(panels.end(p) * panel_width, in) - column, own(worker));
    });
  }

  template <class T> void backward_weight(const LinearBackwardWeight<T>& call) {
    const int panels = ceil_div(call.in, panel_width), words = ceil_div(call.rows, word_group<T>);
    const int fit = shared_words / (call.out + panels * panel_width) / simd::width * simd::width;
    const int most = std::min(panel_steps, fit);
    for (int step = 0; step < words; step += most)
      weight_steps(call, step, std::min(most, words - step));
  }

 private:
  static constexpr int shared_words = 2 << 20;
  static constexpr int forward_tiles = 16, forward_panels = 8;
  static constexpr int input_tiles = 43, input_panels = 4;
  static constexpr int weight_tiles = 16;
  static constexpr int own_words =
      std::max(forward_tiles * tile_height * forward_panels * panel_width,
               (input_tiles * tile_height + panel_steps) * input_panels * panel_width);

  /// Threads worth waking for so many multiply-adds.
  int team_of(int rows, int out, int in) const {
    return std::int64_t(rows) * out * in < 1 << 18 ? 1 : threads_.count;
  }

  Word* shared() { return reinterpret_cast<Word*>(arena_.base()); }
  Word* own(int worker) { return shared() + shared_words + std::int64_t(worker) * own_words; }

  template <class T>
  void forward_rows(const LinearForward<T>& call, const T* weight, int row, int rows) {
    const int in = call.weight.in, out = call.weight.out, words = in / word_group<T>;
    const int chunks = ceil_div(words, panel_steps), panels = ceil_div(rows, panel_width);
    const std::ptrdiff_t stride = in * std::ptrdiff_t(sizeof(T));
    const auto* x = reinterpret_cast<const std::byte*>(call.x) + row * stride;
    threads_.each(chunks * panels, std::int64_t(rows) * in, [&](std::int64_t i) {
      const int step = int(i) % chunks * panel_steps, first = int(i) / chunks * panel_width;
      pack_columns(shared() + (std::int64_t(first) * words + step * panel_width),
                   x + first * stride + step * std::ptrdiff_t(sizeof(Word)), stride,
                   std::min(panel_steps, words - step), std::min(panel_width, rows - first));
    });
    const int team = team_of(rows, out, in);
    const Split units = Split::of(ceil_div(out, tile_height), forward_tiles, team);
    threads_.each_uneven(units.pieces, team, [&](std::int64_t unit, int worker) {
      const int first = units.begin(int(unit)) * tile_height;
      forward_block(call, weight, row, rows, first,
                    std::min(units.end(int(unit)) * tile_height, out) - first,
                    reinterpret_cast<float*>(own(worker)));
    });
  }

  /// z of `rows` rows and `columns` columns. Sums: per panel of rows, (columns, panel_width).
  template <class T>
  void forward_block(const LinearForward<T>& call, const T* weight, int row, int rows, int column,
                     int columns, float* sums) {
    const int in = call.weight.in, words = in / word_group<T>;
    const std::ptrdiff_t stride = in * std::ptrdiff_t(sizeof(T));
    const auto* left = reinterpret_cast<const std::byte*>(weight) + column * stride;
    for (int step = 0; step < words; step += panel_steps)
      for (int first = 0; first < rows; first += panel_width) {
        TileProduct product{.a_row = stride,
                            .b = shared() + (std::int64_t(first) * words + step * panel_width),
                            .steps = std::min(panel_steps, words - step),
                            .sums = sums + first * columns,
                            .sums_row = panel_width,
                            .columns = std::min(panel_width, rows - first),
                            .add = step > 0};
        multiply_rows<T>(product, left + step * std::ptrdiff_t(sizeof(Word)), columns,
                         panel_steps * int(sizeof(Word)));
      }
    for (int first = 0; first < rows; first += panel_width)
      finish_forward(call, sums + first * columns, row + first, std::min(panel_width, rows - first),
                     column, columns);
  }

  /// All tiles of `rows` rows from `a` on; product.sums is the first row's. `onward`: bytes from
  /// the first tile to the one that follows the last.
  template <class T>
  static void multiply_rows(TileProduct product, const std::byte* a, int rows, int onward) {
    float* const sums = product.sums;
    for (int r = 0; r < rows; r += tile_height) {
      product.a = a + r * product.a_row;
      product.ahead = r + tile_height < rows ? product.a + tile_height * product.a_row : a + onward;
      product.sums = sums + r * product.sums_row;
      product.height = std::min(tile_height, rows - r);
      multiply_tile<T>(product);
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
          tile[i] = simd::load(sums + std::min(c + i, columns - 1) * panel_width + r, simd::All{});
        simd::transpose(tile);
        T* to = call.z + std::int64_t(row + r) * out + column + c;
        for (int i = 0; i < std::min(simd::width, rows - r); ++i)
          simd::store(to + std::int64_t(i) * out, tile[i] + bias, some);
      }
    });
  }

  /// dx of `rows` rows and `columns` columns. Scratch: a panel and sums (rows, panel_width) for
  /// every panel_width columns.
  template <class T, class DX>
  static void input_block(const LinearBackwardInput<T, DX>& call, const T* weight, int row,
                          int rows, int column, int columns, Word* scratch) {
    const int in = call.weight.in, out = call.weight.out, words = out / word_group<T>;
    const std::ptrdiff_t stride = out * std::ptrdiff_t(sizeof(T));
    const auto* left = reinterpret_cast<const std::byte*>(call.dz) + row * stride;
    const SummedRows<T> right{weight, in, out};
    float* const sums =
        reinterpret_cast<float*>(scratch + input_panels * panel_steps * panel_width);
    for (int step = 0; step < words; step += panel_steps) {
      const int steps = std::min(panel_steps, words - step);
      for (int c = 0; c < columns; c += panel_width) {
        Word* const panel = scratch + c * panel_steps;
        const int width = std::min(panel_width, columns - c);
        pack_rows(panel, right, step, steps, column + c, width);
        TileProduct product{.a_row = stride,
                            .b = panel,
                            .steps = steps,
                            .sums = sums + c * rows,
                            .sums_row = panel_width,
                            .columns = width,
                            .add = step > 0};
        multiply_rows<T>(product, left + step * std::ptrdiff_t(sizeof(Word)), rows,
                         c + panel_width < columns ? 0 : panel_steps * int(sizeof(Word)));
      }
    }
    finish_input(call, sums, row, rows, column, columns);
  }

  template <class T, class DX>
  static void finish_input(const LinearBackwardInput<T, DX>& call, const float* sums, int row,
                           int rows, int column, int columns) {
    for (int r = 0; r < rows; ++r)
      simd::each_lanes(columns, [&](int c, auto some) {
        const int panel = c / panel_width * panel_width;
        const simd::Lanes sum =
            simd::load(sums + (panel * rows + r * panel_width + c - panel), some);
        DX* to = call.dx + std::int64_t(row + r) * call.weight.in + column + c;
        simd::store(to, call.accumulate_input ? simd::load(to, some) + sum : sum, some);
      });
  }

  /// Adds to d_weight what the words [step, step + steps) of rows give.
  template <class T> void weight_steps(const LinearBackwardWeight<T>& call, int step, int steps) {
    const int out = call.out, in = call.in, whole = ceil_div(steps, simd::width) * simd::width;
    const std::int64_t touched = std::int64_t(steps) * word_group<T>;
    Word* const dz = shared();
    Word* const x = dz + std::int64_t(out) * whole;
    const SummedRows<T> dz_rows{call.dz, out, call.rows}, x_rows{call.x, in, call.rows};
    threads_.each(ceil_div(out, panel_width), touched * out, [&](std::int64_t i) {
      const int c = int(i) * panel_width;
      transpose_rows(dz + std::int64_t(c) * whole, whole, dz_rows, step, whole, c,
                     std::min(panel_width, out - c));
    });
    threads_.each(ceil_div(in, panel_width), touched * in, [&](std::int64_t i) {
      const int c = int(i) * panel_width;
      pack_rows(x + std::int64_t(c) * steps, x_rows, step, steps, c, std::min(panel_width, in - c));
    });
    const int team = team_of(int(touched), out, in);
    const Split units = Split::of(ceil_div(out, tile_height), weight_tiles, team);
    threads_.each_uneven(units.pieces, team, [&](std::int64_t unit, int) {
      const int row = units.begin(int(unit)) * tile_height;
      for (int c = 0; c < in; c += panel_width) {
        const TileProduct product{.a_row = whole * std::ptrdiff_t(sizeof(Word)),
                                  .b = x + std::int64_t(c) * steps,
                                  .steps = steps,
                                  .sums = call.d_weight + std::int64_t(row) * in + c,
                                  .sums_row = in,
                                  .columns = std::min(panel_width, in - c),
                                  .add = call.accumulate || step > 0};
        multiply_rows<T>(product,
                         reinterpret_cast<const std::byte*>(dz + std::int64_t(row) * whole),
                         std::min(units.end(int(unit)) * tile_height, out) - row, 0);
      }
    });
  }

  Threads threads_;
  Arena arena_;
};

#endif

}  // namespace ctrain::cpu
