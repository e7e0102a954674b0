/// \file  The state dict of a model: names, shapes, and who holds which part of a tensor.   floor 6: trainer
#pragma once

#include <ctrain/core/floating.hpp>
#include <ctrain/memory/buckets.hpp>
#include <ctrain/model/parameters.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace ctrain {

/// A tensor of the state dict of the whole model.
struct LogicalTensor {
  std::string name;  // Hugging Face's
  std::vector<std::int64_t> shape;
};

/// Consecutive elements of a tensor of the state dict that someone holds.
struct TensorPart {
  std::string name{};                 // Hugging Face's
  std::vector<std::int64_t> shape{};  // of the whole tensor
  std::int64_t first = 0, count = 0;  // of its elements, row-major
  float* data = nullptr;
  int parameter = 0, layer = 0;  // row of the parameter table
  bool is_mine = true;           // of the ranks that hold it, this one writes it to files
};

/// Hugging Face's name of a row of the parameter table.
inline std::string tensor_name(const Parameter& p, int layer) {
  const std::string name(p.name);
  return p.segment == Segment::block ? "bert.encoder.layer." + std::to_string(layer) + "." + name
                                     : name;
}

/// A parameter's shape where all `tensor_ranks` are put together.
inline std::vector<std::int64_t> whole_shape(const Parameter& p, int tensor_ranks) {
  const Slice whole = slice_of(p, 0, tensor_ranks);
  if (p.vector) return {whole.cols};
  return {whole.rows, whole.cols};
}

/// The state dict of a table whose tensors are whole on `tensor_ranks` ranks together.
inline std::vector<LogicalTensor> state_dict_of(const ParameterTable& t, int tensor_ranks = 1) {
  std::vector<LogicalTensor> all;
  for (int unit = 0; unit < t.layers + 2; ++unit)
    for (const Parameter& p : t.rows)
      if (p.segment == segment_of(t, unit))
        all.push_back({tensor_name(p, unit - 1), whole_shape(p, tensor_ranks)});
  return all;
}

}  // namespace ctrain
