/// \file  A model that trains in no time, and micro-batches for it that change.
#pragma once

#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/step.hpp>

#include <algorithm>
#include <cstdint>

namespace {

using namespace ctrain;

constexpr ModelShape small{.vocabulary = 512,
                           .positions = 64,
                           .layers = 3,
                           .hidden = 128,
                           .heads = 2,
                           .feed_forward = 512};

/// Sentences of lengths that change from batch to batch; every number of sentences occurs.
struct Changing {
  const Batch& shape;
  int left = 1 << 30;  // micro-batches of the epoch
  int opened = 0, first_opened = 0;

  int open(int count) {
    count = std::min(count, left);
    left -= count;
    first_opened = opened + 1;
    opened += count;
    return count;
  }
  static int length_of(int batch, int s) { return 5 + (s * 7 + batch * 11) % 60; }
  int rows_of(int batch, int s) const {
    return shape.packed() ? length_of(batch, s) : shape.length;
  }
  int sentences(int i) const {
    int count = 0;
    for (int rows = 0; count < shape.sentence_bound() - (first_opened + i) % 3; ++count)
      if ((rows += rows_of(first_opened + i, count)) > shape.rows()) break;
    return count;
  }
  void fill(int i, BatchView& b, std::uint32_t first) const {
    const int batch = first_opened + i;
    b.rows = b.sentences = 0;
    for (int s = 0; s < sentences(i); ++s) {
      const int length = length_of(batch, s), rows = rows_of(batch, s);
      b.first_row[s] = b.rows;
      b.lengths[s] = length;
      b.labels[s] = (s + batch) % 2;
      for (int i = 0; i < rows; ++i, ++b.rows) {
        b.token_ids[b.rows] = i < length ? 1 + (s * 31 + i * 17 + batch) % 500 : 0;
        b.token_types[b.rows] = i > length / 2 && i < length;
        b.positions[b.rows] = i;
        b.row_keys[b.rows] = (first + std::uint32_t(s)) * 512 + std::uint32_t(i);
      }
      b.first_row[++b.sentences] = b.rows;
    }
    const int all = int(round_up(b.rows, shape.row_step()));
    for (; b.rows < all; ++b.rows)
      b.token_ids[b.rows] = b.token_types[b.rows] = b.positions[b.rows] = 0, b.row_keys[b.rows] = 0;
  }
};

}  // namespace
