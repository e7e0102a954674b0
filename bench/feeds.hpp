/// \file  Micro-batches for benches: sentences of one length, end to end.
#pragma once

#include <ctrain/backend/batch.hpp>

#include <cstdint>

/// `each` sentences of `length` tokens each, random ids below `vocabulary`, the same every
/// time.
struct EqualSentences {
  int each = 0, length = 0, vocabulary = 0;

  int open(int count) const { return count; }
  int sentences(int) const { return each; }
  void fill(int, ctrain::BatchView& b, std::uint32_t first_ordinal) const {
    b.rows = b.sentences = 0;
    std::uint32_t random = 12345;
    for (int s = 0; s < each; ++s) {
      b.first_row[s] = b.rows;
      b.lengths[s] = length;
      b.labels[s] = s % 2;
      for (int i = 0; i < length; ++i, ++b.rows) {
        random = random * 1664525u + 1013904223u;
        b.token_ids[b.rows] = 1 + int((random >> 8) % std::uint32_t(vocabulary - 1));
        b.token_types[b.rows] = i > length / 2;
        b.positions[b.rows] = i;
        b.row_keys[b.rows] = (first_ordinal + std::uint32_t(s)) * 512 + std::uint32_t(i);
      }
    }
    b.sentences = each;
    b.first_row[each] = b.rows;
  }
};
