/// \file  How many rows the activations of a micro-batch can have.   floor 2: model
#pragma once

#include <ctrain/model/graph.hpp>
#include <ctrain/policy/policy.hpp>

#include <vector>

namespace ctrain {

/// Every count that a batch's packed tokens (or its sentences, or another tensor's rows) can come
/// to, rising: what a backend prepares its products for.
inline std::vector<int> row_counts(const Batch& batch, Rows of) {
  const bool tokens = of == Rows::tokens;
  const int step = tokens ? batch.row_step() : 16;
  const int most = tokens ? batch.rows() : batch.sentence_bound();
  std::vector<int> counts;
  for (int rows = step; rows < most; rows += step) counts.push_back(rows);
  counts.push_back(most);
  return counts;
}

}  // namespace ctrain
