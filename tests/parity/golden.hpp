/// \file  Reads the golden files of tests/golden/parity and feeds their batches to a step.
#pragma once

#include <ctrain/backend/batch.hpp>
#include <ctrain/io/safetensors.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace golden {

inline std::string path(const std::string& name) {
  return std::string(CTRAIN_TEST_DATA) + "/parity/" + name;
}

/// All values of a tensor as double.
inline std::vector<double> values(const ctrain::SafeTensors& file, const std::string& name) {
  const ctrain::StoredTensor t = file.stored(name);
  const std::size_t width = t.type == ctrain::StoredType::f64 ? 8 : 4;
  std::vector<double> out(t.data.size() / width);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (t.type == ctrain::StoredType::f64) {
      std::memcpy(&out[i], t.data.data() + i * 8, 8);
    } else if (t.type == ctrain::StoredType::i32) {
      std::int32_t v;
      std::memcpy(&v, t.data.data() + i * 4, 4);
      out[i] = v;
    } else {
      float v;
      std::memcpy(&v, t.data.data() + i * 4, 4);
      out[i] = v;
    }
  }
  return out;
}

/// One padded batch of the file: ids, types, mask, labels, lengths.
struct Sentences {
  std::vector<double> ids, types, labels, lengths;
  std::size_t columns = 48;
};

/// Batch `which` of `prefix`, where the leading dimension counts batches of `count` sentences.
inline Sentences sentences(const ctrain::SafeTensors& file, const std::string& prefix,
                           std::size_t which = 0, std::size_t count = 0) {
  Sentences s{values(file, prefix + ".input_ids"), values(file, prefix + ".token_type_ids"),
              values(file, prefix + ".labels"), values(file, prefix + ".lengths")};
  if (count == 0) return s;
  const auto cut = [&](std::vector<double>& v, std::size_t each) {
    v = {v.begin() + std::ptrdiff_t(which * each), v.begin() + std::ptrdiff_t((which + 1) * each)};
  };
  cut(s.ids, count * s.columns);
  cut(s.types, count * s.columns);
  cut(s.labels, count);
  cut(s.lengths, count);
  return s;
}

/// Hands out one batch, packed or padded as the policy says.
struct Feed {
  const Sentences& source;
  const ctrain::Batch& shape;
  bool done = false;

  int open(int) { return done ? 0 : (done = true); }
  int sentences(int) const { return int(source.labels.size()); }
  void fill(int, ctrain::BatchView& b, std::uint32_t) {
    b.rows = b.sentences = 0;
    for (std::size_t s = 0; s < source.labels.size(); ++s) {
      const int length = int(source.lengths[s]), rows = shape.packed() ? length : shape.length;
      b.first_row[s] = b.rows;
      b.lengths[s] = length;
      b.labels[s] = int(source.labels[s]);
      for (int i = 0; i < rows; ++i, ++b.rows) {
        b.token_ids[b.rows] = int(source.ids[s * source.columns + std::size_t(i)]);
        b.token_types[b.rows] = int(source.types[s * source.columns + std::size_t(i)]);
        b.positions[b.rows] = i;
        b.row_keys[b.rows] = std::uint32_t(s * 512 + std::size_t(i));
      }
    }
    b.sentences = int(source.labels.size());
    b.first_row[b.sentences] = b.rows;
    for (; b.rows % 16 != 0; ++b.rows)
      b.token_ids[b.rows] = b.token_types[b.rows] = b.positions[b.rows] = 0, b.row_keys[b.rows] = 0;
  }
};

}  // namespace golden
