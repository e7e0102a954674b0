/// \file  Records of a computation: tensors, ops, programs; the tables everything is derived from.   floor 2: model
#pragma once

#include <ctrain/core/floating.hpp>
#include <ctrain/core/philox.hpp>
#include <ctrain/core/table.hpp>
#include <ctrain/core/units.hpp>
#include <ctrain/model/parameters.hpp>

#include <cstdint>
#include <string_view>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// What an op computes; the call of the same name in backend/calls.hpp says exactly what.
enum class OpKind : std::uint8_t {
  embed,
  layer_norm,
  linear,
  attention,
  gelu,
  dropout,
  dropout_add,
  cast,
  select_first,
  tanh,
  cross_entropy,
  // what tensor ranks exchange; never in a table of the whole model
  all_reduce,
  all_gather,
  reduce_scatter,
  // what backward consists of; never in a forward table
  embed_backward,
  layer_norm_backward,
  linear_backward_input,
  linear_backward_weight,
  attention_backward,
  gelu_backward,
  dropout_backward,
  dropout_add_backward,
  cast_backward,
  select_first_backward,
  tanh_backward,
  cross_entropy_backward
};

/// What a tensor's first dimension counts.
enum class Rows : std::uint8_t { tokens, sentences, workers };

/// What each of several tensor ranks has of an activation: all of it, some rows, some columns, or a
/// summand of it.
enum class Spread : std::uint8_t { whole, rows, features, summand };

inline constexpr int no_tensor = -1;

/// An activation, or the gradient of one. Parameters and their gradients are not in this table.
/// `cols` is what this rank has of them; of a tensor whose rows are spread it has an equal part.
struct Tensor {
  std::string_view name;
  DType type = DType::fp32;
  Rows rows = Rows::tokens;
  int cols = 0;
  bool is_gradient = false;
  /// The residual stream between blocks: one instance before each block and one after the last.
  bool is_stream = false;
  Spread spread = Spread::whole;
};

/// A use of a tensor. `shift` 1 means: of the next block (the stream that a block hands on).
struct Operand {
  int tensor = no_tensor;
  int shift = 0;
  friend constexpr bool operator==(const Operand&, const Operand&) = default;
};

/// One step of a program. Which operand is which is fixed by kind (see encoder.hpp and
/// backward.hpp). In a forward op, inputs[0] is the differentiable input, inputs[1] a dropout_add's
/// residual. all_reduce works in place; all_gather takes a rank's rows and writes all;
/// reduce_scatter takes a summand, which it destroys (outputs[1]), and writes the rank's rows.
struct Op {
  OpKind kind = OpKind::embed;
  Operand inputs[4]{};
  Operand outputs[3]{};
  int parameter = -1;   // first parameter: a weight, a gain, the word table
  int bias = -1;        // its bias
  int in = 0, out = 0;  // linear: features
  DropoutSite site = DropoutSite::embedding;
  bool accumulate_input = false;  // backward: adds to its first output instead of writing it
};

/// A straight line of ops over one segment.
struct Program {
  Segment segment = Segment::embedding;
  Table<Op, 32> ops;
};

/// Everything one micro-batch does: three forward programs and what is derived from them.
struct Graph {
  Table<Tensor, 64> tensors;
  ParameterTable parameters;
  Program forward_embedding, forward_block, forward_head;
  Program backward_head, backward_block, backward_embedding;
  Program recompute_block;   // the part of forward_block that backward needs again
  int stream = no_tensor;    // (tokens, hidden)
  int d_stream = no_tensor;  // its gradient, one instance for all blocks
};

/// True iff tensor ranks meet at the op.
constexpr bool is_exchange(OpKind kind) {
  return kind >= OpKind::all_reduce && kind <= OpKind::reduce_scatter;
}

}  // namespace ctrain
