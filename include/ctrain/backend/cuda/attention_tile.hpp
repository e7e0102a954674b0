/// \file  Tiles of 32 rows of one head in shared memory, and the products that attention makes of them.   floor 5: backend
#pragma once

#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/math/dropout.hpp>

namespace ctrain::cuda {

/// A block of 128 threads works on tiles of 32 rows by HeadSize columns. Thread t owns rows
/// 2 (t / 8) and the next, and beside them
///   of a product of two tiles (32, 32): columns t % 8 + 8 j, j < 4;
///   of a tile (32, HeadSize):           groups of 16 bytes t % 8 + 8 j.
/// A row in shared memory has 16 bytes of padding, so that 8 threads that read 8 neighbouring rows
/// meet 8 different banks. Columns from `size`, the true head size, to HeadSize hold zeros.
template <class T, int HeadSize> struct HeadTile {
  static constexpr int threads = 128;
  static constexpr int rows = 32;
  static constexpr int group = group_of<T>;
  static constexpr int groups = HeadSize / (8 * group);  // of a thread, in one row
  static constexpr int stride = HeadSize + group;
  static constexpr int elements = rows * stride;
  static constexpr int bytes = elements * int(sizeof(T));
  static constexpr int weight_stride = rows + 1;
  static constexpr int weight_bytes = 33 * 32 * int(sizeof(float));

  static_assert(HeadSize % (8 * group) == 0, "8 threads share a row in groups of 16 bytes");

  /// A (32, 32) product's part in one thread.
  struct Scores {
    float at[2][4] = {};
  };
  /// A (32, HeadSize) sum's part in one thread.
  struct Rows {
    float at[2][groups * group] = {};
  };

  CTRAIN_HOST_DEVICE static int own_row(int thread, int i) { return thread / 8 * 2 + i; }
  CTRAIN_HOST_DEVICE static int own_column(int thread, int j) { return thread % 8 + 8 * j; }
  CTRAIN_HOST_DEVICE static int own_group(int thread, int j) {
    return (thread % 8 + 8 * j) * group;
  }

  /// tile = the first `valid` rows at `from`, then zeros.
  template <bool Aligned>
  CTRAIN_HOST_DEVICE static void fetch(int thread, T* tile, const T* from, std::int64_t row_step,
                                       int valid, int size) {
    for (int row = thread / 8; row < rows; row += threads / 8)
      for (int j = 0; j < groups; ++j) {
        const int c = own_group(thread, j);
        T* to = tile + row * stride + c;
        const T* at = from + row * row_step + c;
        if (Aligned && row < valid && c < size)
          copy_16_bytes(to, at);
        else
          for (int i = 0; i < group; ++i)
            to[i] = !Aligned && row < valid && c + i < size ? at[i] : T(0.0f);
      }
  }

  /// a b^T of two tiles.
  CTRAIN_HOST_DEVICE static Scores products(int thread, const T* a, const T* b) {
    Scores sum;
    const T* row = a + own_row(thread, 0) * stride;
    const T* column = b + own_column(thread, 0) * stride;
    for (int c = 0; c < HeadSize; c += group) {
      const Values<group> x = load<group>(row + c), y = load<group>(row + stride + c);
      for (int j = 0; j < 4; ++j) {
        const Values<group> z = load<group>(column + 8 * j * stride + c);
        for (int i = 0; i < group; ++i) {
          sum.at[0][j] += x[i] * z[i];
          sum.at[1][j] += y[i] * z[i];
        }
      }
    }
    return sum;
  }

  CTRAIN_HOST_DEVICE static void put(int thread, float* weights, const Scores& scores) {
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 4; ++j)
        weights[own_row(thread, i) * weight_stride + own_column(thread, j)] = scores.at[i][j];
  }

  /// The same, rows and columns exchanged.
  CTRAIN_HOST_DEVICE static void put_transposed(int thread, float* weights, const Scores& scores) {
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 4; ++j)
        weights[own_column(thread, j) * weight_stride + own_row(thread, i)] = scores.at[i][j];
  }

  /// Drops from a product whose columns are elements first, first + 1, ... (first a multiple of 32)
  /// of rows' dropouts. A thread's 4 columns need 2 Philox calls: each has two of them in the
  /// halves of one word (core/philox.hpp).
  CTRAIN_HOST_DEVICE static void drop(int thread, Scores& scores, const DropoutRow (&rows)[2],
                                      std::uint32_t first) {
    unrolled<2>([&](auto i) {
      const DropoutRow& row = rows[i];
      if (row.threshold == 0) return;
      unrolled<2>([&](auto half) {
        const Words words = philox({(first >> 7) * 16u + std::uint32_t(thread % 8 + 8 * half),
                                    row.token, row.key.layer_site, row.key.step},
                                   std::uint32_t(row.key.seed), std::uint32_t(row.key.seed >> 32));
        const std::uint32_t which = first >> 5 & 3u;
        const std::uint32_t word =
            which < 2 ? (which == 0 ? words.x : words.y) : (which == 2 ? words.z : words.w);
        float& low = scores.at[i][half];
        float& high = scores.at[i][half + 2];
        low = (word & 0xffffu) < row.threshold ? 0.0f : low * row.scale;
        high = word >> 16 < row.threshold ? 0.0f : high * row.scale;
      });
    });
  }

  /// sum += weights (32, 32) times tile (32, HeadSize), over the tile's first `valid` rows.
  CTRAIN_HOST_DEVICE static void add_weighted(int thread, Rows& sum, const float* weights,
                                              const T* tile, int valid) {
    const float* mine = weights + own_row(thread, 0) * weight_stride;
    for (int k = 0; k < valid; ++k) {
      const float x = mine[k], y = mine[weight_stride + k];
      unrolled<groups>([&](auto j) {
        const Values<group> z = load<group>(tile + k * stride + own_group(thread, j));
        unrolled<group>([&](auto i) {
          sum.at[0][j * group + i] += x * z[i];
          sum.at[1][j * group + i] += y * z[i];
        });
      });
    }
  }

  /// The first `valid` rows at `to` = sum, row i of a thread times factor[i].
  template <bool Aligned>
  CTRAIN_HOST_DEVICE static void write(int thread, T* to, std::int64_t row_step, const Rows& sum,
                                       const float (&factor)[2], int valid, int size) {
    unrolled<2>([&](auto r) {
      if (own_row(thread, r) >= valid) return;
      T* row = to + own_row(thread, r) * row_step;
      unrolled<groups>([&](auto j) {
        const int c = own_group(thread, j);
        Values<group> value;
        unrolled<group>([&](auto i) { value[i] = sum.at[r][j * group + i] * factor[r]; });
        if (Aligned && c < size) store_16_bytes_globally(row + c, bits_of<T>(value.at));
        if (!Aligned)
          unrolled<group>([&](auto i) {
            if (c + i < size) row[c + i] = T(value[i]);
          });
      });
    });
  }

  /// Over the 8 threads that share a row.
  template <Block B> CTRAIN_HOST_DEVICE static float row_sum(B& block, float value) {
    for (int mask = 4; mask > 0; mask /= 2) value += block.shuffle_xor(value, mask);
    return value;
  }
  template <Block B> CTRAIN_HOST_DEVICE static float row_max(B& block, float value) {
    for (int mask = 4; mask > 0; mask /= 2) {
      const float other = block.shuffle_xor(value, mask);
      value = other > value ? other : value;
    }
    return value;
  }
};

}  // namespace ctrain::cuda
