/// \file  Weight matrices in the blocked layout that oneDNN's AVX-512 products read.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/threads.hpp>
#include <ctrain/core/floating.hpp>

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

/// Copies a row-major matrix into blocks: element (k, n) of the operand is from[k * depth_step +
/// n * column_step].
template <class T>
void pack(T* to, const float* from, std::int64_t depth_step, std::int64_t column_step, int depth,
          int width, Blocking by, const Threads& threads) {
  const int depth_blocks = depth / by.depth;
  threads.each(std::int64_t(width / by.columns) * depth_blocks, std::int64_t(width) * depth,
               [&](std::int64_t block) {
                 T* out = to + block * by.columns * by.depth;
                 const float* in = from + block / depth_blocks * by.columns * column_step +
                                   block % depth_blocks * by.depth * depth_step;
                 for (int k = 0; k < by.depth; k += by.group)
                   for (int n = 0; n < by.columns; ++n)
                     for (int g = 0; g < by.group; ++g)
                       *out++ = T(in[(k + g) * depth_step + n * column_step]);
               });
}

}  // namespace ctrain::cpu
