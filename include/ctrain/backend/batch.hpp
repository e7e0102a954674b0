/// \file  One micro-batch as a step reads it: token rows, and where each sentence lies.   floor 5: backend
#pragma once

#include <ctrain/core/config.hpp>

#include <cstdint>

namespace ctrain {

/// Pointers into the batch buffers of the arena. A row is one token. Sentence s owns the rows
/// [first_row[s], first_row[s + 1]); the first `lengths[s]` of them are real tokens, the rest (only
/// in a padded batch) are padding: padding rows query, but are never keys. Rows from
/// first_row[sentences] up to `rows` belong to no sentence: their token id, type and position are
/// 0, attention gives them 0, and their gradients are 0. A sentence of length 0 stands for none,
/// where a shape is filled up: it has no row and no label.
struct BatchView {
  std::int32_t* token_ids = nullptr;    // (rows)
  std::int32_t* token_types = nullptr;  // (rows)
  std::int32_t* positions = nullptr;    // (rows)
  std::uint32_t* row_keys =
      nullptr;  // (rows)      the dropout identity of a token: sentence ordinal
                //             in the global batch * 512 + position
  std::int32_t* first_row = nullptr;  // (sentences + 1)
  std::int32_t* lengths = nullptr;    // (sentences) real tokens
  std::int32_t* labels = nullptr;     // (sentences) class index; -1: no label, counts in no loss
  std::int32_t rows = 0;              // rows that are computed, at most the policy's bound
  std::int32_t sentences = 0;         // at most the policy's bound

  /// The row of a sentence's first token; -1, which no range has, where there is none.
  CTRAIN_HOST_DEVICE std::int32_t first_token(int sentence) const {
    return lengths[sentence] > 0 ? first_row[sentence] : -1;
  }
};

}  // namespace ctrain
