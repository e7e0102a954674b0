/// \file  Whether an element of a row is dropped, and what becomes of it.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>

namespace ctrain {

/// The dropout identity of row r (see Dropout).
CTRAIN_HOST_DEVICE inline std::uint32_t dropout_token(const Dropout& dropout, int row) {
  return dropout.row_keys[dropout.first_row ? dropout.first_row[row] : row];
}

/// The dropout of one row: everything but the element.
struct DropoutRow {
  DropoutKey key;
  std::uint32_t token = 0;
  std::uint32_t threshold = 0;
  float scale = 1;

  CTRAIN_HOST_DEVICE float operator()(float value, std::uint32_t element) const {
    if (threshold == 0) return value;
    return dropout_draw(key, token, element) < threshold ? 0.0f : value * scale;
  }
};

/// Without dropout, row_keys is not read and may be null.
CTRAIN_HOST_DEVICE inline DropoutRow dropout_row(const Dropout& dropout, int row) {
  if (dropout.threshold == 0) return {};
  return {dropout.key(), dropout_token(dropout, row), dropout.threshold,
          dropout_scale(dropout.threshold)};
}

}  // namespace ctrain
