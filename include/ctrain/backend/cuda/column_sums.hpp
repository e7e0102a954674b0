/// \file  Device sums over rows, column by column, in a fixed tree: gradients of biases and gains.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>

#include <algorithm>

namespace ctrain::cuda {

// The tree: rows are cut into at most 64 chunks of equal length, each summed from its first row to
// its last; then the chunks are added in order. It depends on the number of rows alone.

struct RowChunks {
  int rows = 0, length = 0, count = 0;

  static RowChunks of(int rows) {
    const int length = std::max(8, ceil_divide(rows, 64));
    return {rows, length, ceil_divide(rows, length)};
  }
};

/// partial[chunk][column] = sum over the chunk's rows of z.
template <class T, int Group> struct SumChunks {
  static constexpr int threads = 128;
  float* partial;  // (chunks, cols)
  const T* z;      // (rows, cols)
  RowChunks chunks;
  int cols;

  std::int64_t blocks() const {
    return std::int64_t{chunks.count} * ceil_divide(cols, threads * Group);
  }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const int chunk = int(block.index() % chunks.count);
    const int column = (int(block.index() / chunks.count) * threads + block.thread()) * Group;
    if (column >= cols) return;
    const int first = chunk * chunks.length;
    const int end = first + chunks.length < chunks.rows ? first + chunks.length : chunks.rows;
    Values<Group> sum{};
    for (int row = first; row < end; ++row) {
      const Values<Group> value = load<Group>(z + std::int64_t{row} * cols + column);
      for (int i = 0; i < Group; ++i) sum[i] += value[i];
    }
    store(partial + std::int64_t{chunk} * cols + column, sum);
  }
};

/// to[column] (+)= sum over chunks, in order. Row chunk `i` starts at partial + i * step.
struct FoldChunks {
  static constexpr int threads = 128;
  float* to;  // (cols)
  const float* partial;
  std::int64_t step;
  int chunks, cols;
  bool accumulate;

  std::int64_t blocks() const { return ceil_divide(cols, threads); }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const int column = int(block.index()) * threads + block.thread();
    if (column >= cols) return;
    float sum = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * step + column];
    to[column] = accumulate ? to[column] + sum : sum;
  }
};

/// d_bias (+)= column sums of dz, the part of LinearBackwardWeight that is no product.
template <class T, class G, Stream S>
void add_column_sums(const LinearBackwardWeight<T, G>& call, S& stream) {
  const RowChunks chunks = RowChunks::of(call.rows);
  float* partial = stream.template scratch<float>(std::int64_t{chunks.count} * call.out);
  if (rows_allow_groups(group_of<T>, call.out, call.dz))
    stream.launch(SumChunks<T, group_of<T>>{partial, call.dz, chunks, call.out});
  else
    stream.launch(SumChunks<T, 1>{partial, call.dz, chunks, call.out});
  stream.launch(
      FoldChunks{call.d_bias, partial, call.out, chunks.count, call.out, call.accumulate});
}

}  // namespace ctrain::cuda
