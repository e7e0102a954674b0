/// \file  Weight matrices in the blocked layout that oneDNN's AVX-512 products read.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd.hpp>
#include <ctrain/backend/cpu/threads.hpp>

namespace ctrain::cpu {

/// A (depth, width) operand of a product in blocks: columns in blocks of `columns`, in each the
/// depth in blocks of `depth`, in each `depth / group` groups of rows, in each the columns, in each
/// the `group` neighbours of one column (2 for bf16, which is multiplied in pairs). oneDNN writes
/// it BA16a64b and BA16a64b2a.
struct Blocking {
  int columns = 0, depth = 0, group = 1;

  constexpr bool fits(int width, int all_depth) const {
    return columns > 0 && depth > 0 && width % columns == 0 && all_depth % depth == 0;
  }
  friend constexpr bool operator==(const Blocking&, const Blocking&) = default;
};

/// Neighbours of a column that stand together in the products of T.
template <class T> inline constexpr int pack_group = 1;
template <> inline constexpr int pack_group<bf16> = 2;

/// Whether pack() writes these blocks: whole tiles of 16 x 16, neighbours as T has them.
template <class T> constexpr bool packs(Blocking by) {
  return by.columns > 0 && by.columns % simd::width == 0 && by.depth % simd::width == 0 &&
         by.group == pack_group<T>;
}

CTRAIN_INLINE void stream_group(float* to, const simd::Lanes* rows) {
  simd::stream(to, rows[0]);
}
CTRAIN_INLINE void stream_group(bf16* to, const simd::Lanes* rows) {
  simd::stream_pairs(to, rows[0], rows[1]);
}

/// A 16 x 16 tile of the operand, one row of the depth in each Lanes.
CTRAIN_INLINE void load_tile(simd::Lanes (&rows)[simd::width], const float* from,
                             std::int64_t depth_step, std::int64_t column_step) {
  constexpr int ahead = 64;  // floats along a row; without it the reads are three times slower
  const std::int64_t step = column_step == 1 ? depth_step : column_step;
  for (int i = 0; i < simd::width; ++i) simd::prefetch(from + i * step + ahead);
  for (int i = 0; i < simd::width; ++i) rows[i] = simd::load(from + i * step, simd::All{});
  if (column_step != 1) simd::transpose(rows);
}

/// Copies a matrix into blocks: element (k, n) of the (depth, width) operand is from[k * depth_step
/// + n * column_step]; one of the steps is 1. Needs by.fits(width, depth) and packs<T>(by). Blocks
/// are visited along the rows of `from`.
template <class T>
void pack(T* to, const float* from, std::int64_t depth_step, std::int64_t column_step, int depth,
          int width, Blocking by, const Threads& threads) {
  const std::int64_t down = depth / by.depth, across = width / by.columns;
  const auto pack_block = [&](std::int64_t i) {
    const std::int64_t block_row = column_step == 1 ? i / across : i % down;
    const std::int64_t block_column = column_step == 1 ? i % across : i / down;
    T* out = to + (block_column * down + block_row) * by.columns * by.depth;
    const float* in =
        from + block_column * by.columns * column_step + block_row * by.depth * depth_step;
    for (int k = 0; k < by.depth; k += simd::width)
      for (int n = 0; n < by.columns; n += simd::width) {
        simd::Lanes rows[simd::width];
        load_tile(rows, in + k * depth_step + n * column_step, depth_step, column_step);
        for (int r = 0; r < simd::width; r += by.group)
          stream_group(out + (k + r) * by.columns + n * by.group, rows + r);
      }
    simd::end_streaming();
  };
  threads.each(across * down, std::int64_t(width) * depth, pack_block);
}

}  // namespace ctrain::cpu
