/// \file  Every parameter of a model: name, shape, place in the flat vector, decay.   floor 2: model
#pragma once

#include <ctrain/core/table.hpp>
#include <ctrain/core/units.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>
#include <string_view>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// A stretch of the model that is planned on its own. `block` stands once and is repeated.
enum class Segment : std::uint8_t { embedding, block, head };

/// How a new value is drawn: N(0, initializer_range), zeros, or ones (a norm's gain).
enum class Init : std::uint8_t { normal, zeros, ones };

/// Which dimension of a parameter tensor ranks divide among them.
enum class SplitAxis : std::uint8_t { none, rows, cols };

/// One tensor of the state dict, or what one tensor rank has of it. In a block, `name` follows
/// "bert.encoder.layer.N.".
struct Parameter {
  std::string_view name;  // Hugging Face's
  Segment segment = Segment::embedding;
  int rows = 0;  // out features, table rows, or 1 for a vector
  int cols = 0;  // in features or the vector's length
  Init init = Init::normal;
  bool vector = false;      // one-dimensional in files
  bool norm = false;        // belongs to a layer norm
  std::int64_t offset = 0;  // elements from the start of its segment (of one block)
  SplitAxis split = SplitAxis::none;

  constexpr std::int64_t elements() const { return std::int64_t{rows} * cols; }
};

/// Where a rank's part of a logical tensor begins, and the shape of the whole.
struct Slice {
  int rows = 0, cols = 0;  // of the logical tensor
  int first_row = 0, first_col = 0;

  /// The place in the logical tensor of element `i` of the part `p`.
  constexpr std::int64_t logical(const Parameter& p, std::int64_t i) const {
    return (first_row + i / p.cols) * cols + first_col + i % p.cols;
  }
  /// How many of the elements from `i` to `end` of `p` follow each other in the logical tensor too.
  constexpr std::int64_t run(const Parameter& p, std::int64_t i, std::int64_t end) const {
    const std::int64_t row_end = cols == p.cols ? end : (i / p.cols + 1) * p.cols;
    return (row_end < end ? row_end : end) - i;
  }
};

/// Where each parameter's first element stands, in elements. The flat vector is
/// [embedding | block 0 | block 1 | ... | head]; every tensor starts at a multiple of 16.
struct ParameterTable {
  Table<Parameter, 40> rows;
  std::int64_t embedding_size = 0;  // elements, with alignment
  std::int64_t block_size = 0;
  std::int64_t head_size = 0;
  int layers = 0;

  constexpr std::int64_t flat_size() const {
    return embedding_size + layers * block_size + head_size;
  }
  constexpr std::int64_t block_start(int layer) const {
    return embedding_size + layer * block_size;
  }
  /// First element of parameter `i`; `layer` matters in a block only.
  constexpr std::int64_t position(int i, int layer = 0) const {
    const Parameter& p = rows.rows[i];
    if (p.segment == Segment::embedding) return p.offset;
    if (p.segment == Segment::block) return block_start(layer) + p.offset;
    return block_start(layers) + p.offset;
  }
  constexpr int find(std::string_view name, Segment segment) const {
    for (int i = 0; i < rows.size; ++i)
      if (rows.rows[i].name == name && rows.rows[i].segment == segment) return i;
    return -1;
  }
  /// Times a parameter of that segment stands in the model.
  constexpr int copies(Segment segment) const { return segment == Segment::block ? layers : 1; }
  /// Parameters (of one tensor rank), without alignment: what papers count.
  constexpr std::int64_t count() const {
    std::int64_t sum = 0;
    for (int i = 0; i < rows.size; ++i)
      sum += rows.rows[i].elements() * copies(rows.rows[i].segment);
    return sum;
  }
  /// Tensors of the state dict.
  constexpr int tensors() const {
    int sum = 0;
    for (int i = 0; i < rows.size; ++i) sum += copies(rows.rows[i].segment);
    return sum;
  }
};

// functions --------------------------------------------------------------------------------------

namespace parameters {

/// Appends parameters to one segment and keeps its size. Shapes are those of the whole model.
struct Writer {
  ParameterTable& table;
  Segment segment;
  std::int64_t& size;
  int tensor = 1;

  constexpr void add(Parameter p) {
    if (p.split == SplitAxis::rows) p.rows /= tensor;
    if (p.split == SplitAxis::cols) p.cols /= tensor;
    p.segment = segment;
    p.offset = size;
    size += round_up(p.elements(), 16);
    table.rows.add(p);
  }
  constexpr void matrix(std::string_view name, int rows, int cols, SplitAxis split) {
    add({.name = name, .rows = rows, .cols = cols, .split = split});
  }
  constexpr void bias(std::string_view name, int length, SplitAxis split) {
    add({.name = name,
         .rows = 1,
         .cols = length,
         .init = Init::zeros,
         .vector = true,
         .split = split});
  }
  constexpr void norm(std::string_view gain, std::string_view bias, int length) {
    Parameter p{
        .name = gain, .rows = 1, .cols = length, .init = Init::ones, .vector = true, .norm = true};
    add(p);
    p.name = bias;
    p.init = Init::zeros;
    add(p);
  }
};

}  // namespace parameters

/// The state dict of MegatronBertForSequenceClassification or BertForSequenceClassification, in the
/// order of the flat vector, or what one of `tensor` ranks holds of it. Query, key and value stand
/// together, so that they are one matrix. Tensor ranks divide the word table, output features of
/// query, key, value (whole heads) and the first feed-forward matrix, input features of the two
/// output matrices (Shoeybi et al., arXiv 1909.08053); of all else each has the whole.
constexpr ParameterTable parameters_of(const ModelShape& m, int tensor = 1) {
  constexpr auto none = SplitAxis::none, rows = SplitAxis::rows, cols = SplitAxis::cols;
  ParameterTable t;
  t.layers = m.layers;
  const bool pre = m.norm == NormPlacement::pre_layer_norm;
  const int h = m.hidden, f = m.feed_forward;

  parameters::Writer embedding{t, Segment::embedding, t.embedding_size, tensor};
  embedding.matrix("bert.embeddings.word_embeddings.weight", m.vocabulary, h, rows);
  embedding.matrix("bert.embeddings.position_embeddings.weight", m.positions, h, none);
  embedding.matrix("bert.embeddings.token_type_embeddings.weight", m.token_types, h, none);
  if (!pre) embedding.norm("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias", h);

  parameters::Writer block{t, Segment::block, t.block_size, tensor};
  if (pre) block.norm("attention.ln.weight", "attention.ln.bias", h);
  block.matrix("attention.self.query.weight", h, h, rows);
  block.matrix("attention.self.key.weight", h, h, rows);
  block.matrix("attention.self.value.weight", h, h, rows);
  block.bias("attention.self.query.bias", h, cols);
  block.bias("attention.self.key.bias", h, cols);
  block.bias("attention.self.value.bias", h, cols);
  block.matrix("attention.output.dense.weight", h, h, cols);
  block.bias("attention.output.dense.bias", h, none);
  if (pre) block.norm("ln.weight", "ln.bias", h);
  if (!pre) block.norm("attention.output.LayerNorm.weight", "attention.output.LayerNorm.bias", h);
  block.matrix("intermediate.dense.weight", f, h, rows);
  block.bias("intermediate.dense.bias", f, cols);
  block.matrix("output.dense.weight", h, f, cols);
  block.bias("output.dense.bias", h, none);
  if (!pre) block.norm("output.LayerNorm.weight", "output.LayerNorm.bias", h);

  parameters::Writer head{t, Segment::head, t.head_size, tensor};
  if (pre) head.norm("bert.encoder.ln.weight", "bert.encoder.ln.bias", h);
  head.matrix("bert.pooler.dense.weight", h, h, none);
  head.bias("bert.pooler.dense.bias", h, none);
  head.matrix("classifier.weight", m.labels, h, none);
  head.bias("classifier.bias", m.labels, none);
  return t;
}

/// Which part of its logical tensor `p` is, on rank `tensor_rank` of `tensor`.
constexpr Slice slice_of(const Parameter& p, int tensor_rank, int tensor) {
  Slice s{.rows = p.rows, .cols = p.cols};
  if (p.split == SplitAxis::rows) s.rows *= tensor, s.first_row = tensor_rank * p.rows;
  if (p.split == SplitAxis::cols) s.cols *= tensor, s.first_col = tensor_rank * p.cols;
  return s;
}

/// True iff this tensor rank is the one that speaks for `p`: adds its square sum to the norm and
/// writes it to files. What several hold whole is equal on all, so the first one does.
constexpr bool speaks_for(const Parameter& p, int tensor_rank) {
  return p.split != SplitAxis::none || tensor_rank == 0;
}

/// True iff weight decay acts on the parameter.
constexpr bool decays(const Parameter& p, DecayRule rule) {
  if (rule == DecayRule::norm_and_bias_exempt) return !p.vector;
  constexpr auto contains = [](std::string_view name, std::string_view part) {
    return name.find(part) != std::string_view::npos;
  };
  return !contains(p.name, "bias") && !contains(p.name, "LayerNorm.weight");
}

/// Elements on which weight decay acts (without alignment), and their tensors.
struct DecayGroup {
  std::int64_t elements = 0;
  int tensors = 0;
};
constexpr DecayGroup decay_group(const ParameterTable& t, DecayRule rule) {
  DecayGroup group;
  for (int i = 0; i < t.rows.size; ++i) {
    if (!decays(t.rows.rows[i], rule)) continue;
    group.elements += t.rows.rows[i].elements() * t.copies(t.rows.rows[i].segment);
    group.tensors += t.copies(t.rows.rows[i].segment);
  }
  return group;
}

}  // namespace ctrain
