/// \file  Matrix products without a library, for machines whose library lacks bf16.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/threads.hpp>
#include <ctrain/backend/cpu/tiles.hpp>

namespace ctrain::cpu {

/// f(tile) for all tiles of a (rows, columns) result. f fills tile.sums (stride tile_columns); what
/// it returned is then handed to finish(row, column, value).
inline constexpr int tile_rows = 16, tile_columns = 64;

struct ResultTile {
  float* sums = nullptr;  // (tile_rows, tile_columns)
  int row = 0, column = 0, rows = 0, columns = 0;

  Block<float> block() const { return {sums, tile_columns, rows, columns}; }
};

template <class Fill, class Finish>
void each_tile(const Threads& threads, int rows, int columns, int depth, Fill&& fill,
               Finish&& finish) {
  const int across = (columns + tile_columns - 1) / tile_columns;
  const int down = (rows + tile_rows - 1) / tile_rows;
  threads.each(std::int64_t(across) * down, std::int64_t(rows) * columns * depth,
               [&](std::int64_t i) {
                 float sums[tile_rows * tile_columns];
                 const int row = int(i % down) * tile_rows, column = int(i / down) * tile_columns;
                 const ResultTile tile{sums, row, column, std::min(tile_rows, rows - row),
                                       std::min(tile_columns, columns - column)};
                 fill(tile);
                 for (int r = 0; r < tile.rows; ++r)
                   for (int c = 0; c < tile.columns; ++c)
                     finish(row + r, column + c, sums[r * tile_columns + c]);
               });
}

/// z = x W^T + bias, `weight` row-major (out, in).
template <class T, class W>
void plain_forward(const LinearForward<T>& call, const W* weight, const Threads& threads) {
  const int in = call.weight.in, out = call.weight.out;
  each_tile(
      threads, call.rows, out, in,
      [&](const ResultTile& tile) {
        dot_products(tile.sums, tile_columns,
                     Block<const T>{call.x + std::int64_t(tile.row) * in, in, tile.rows, in},
                     Block<const W>{weight + std::int64_t(tile.column) * in, in, tile.columns, in});
      },
      [&](int r, int c, float sum) {
        call.z[std::int64_t(r) * out + c] = T(call.bias == nullptr ? sum : sum + call.bias[c]);
      });
}

/// dx (+)= dz W.
template <class T, class DX, class W>
void plain_backward_input(const LinearBackwardInput<T, DX>& call, const W* weight,
                          const Threads& threads) {
  const int in = call.weight.in, out = call.weight.out;
  each_tile(
      threads, call.rows, in, out,
      [&](const ResultTile& tile) {
        weighted_sums(tile.block(), Coefficients<T>{call.dz + std::int64_t(tile.row) * out, out, 1},
                      Block<const W>{weight + tile.column, in, out, tile.columns});
      },
      [&](int r, int c, float sum) {
        DX& to = call.dx[std::int64_t(r) * in + c];
        to = DX(call.accumulate_input ? float(to) + sum : sum);
      });
}

/// d_weight (+)= dz^T x.
template <class T, class G>
void plain_backward_weight(const LinearBackwardWeight<T, G>& call, const Threads& threads) {
  each_tile(
      threads, call.out, call.in, call.rows,
      [&](const ResultTile& tile) {
        weighted_sums(tile.block(), Coefficients<T>{call.dz + tile.row, 1, call.out},
                      Block<const T>{call.x + tile.column, call.in, call.rows, tile.columns});
      },
      [&](int r, int c, float sum) {
        G& to = call.d_weight[std::int64_t(r) * call.in + c];
        to = G(call.accumulate ? float(to) + sum : sum);
      });
}

}  // namespace ctrain::cpu
