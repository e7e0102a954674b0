/// \file  Where tensor ranks must exchange what they have, derived from the tables of a block.   floor 4: schedule
#pragma once

#include <ctrain/memory/buckets.hpp>
#include <ctrain/model/backward.hpp>
#include <ctrain/schedule/events.hpp>

#include <cstdint>
#include <string_view>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// What each of several tensor ranks has of an activation: all of it, some rows, some columns, or a
/// summand of it.
enum class Spread : std::uint8_t { whole, rows, features, summand };

/// How a matrix is split: by output features, by input features, or not.
enum class MatrixSplit : std::uint8_t { none, columns, rows };

/// A collective over the tensor ranks before or after an op of a program. Every rank of the group
/// walks the same program, so all meet at each.
struct Meeting {
  int op = 0;
  bool before = false;
  Collective kind = Collective::all_reduce;
  int tensor = no_tensor;
  bool adds = false;  // the op adds to its output: the sum is made apart and added then
};

/// The collectives of one program. `consistent`: every op finds its operands spread as it needs
/// them. `norm_gradients_are_summands`: each rank has made those of its own rows only.
struct Meetings {
  Table<Meeting, 16> list;
  bool consistent = true;
  bool norm_gradients_are_summands = false;

  constexpr int count(Collective kind) const {
    int n = 0;
    for (const Meeting& m : list) n += m.kind == kind;
    return n;
  }
};

struct TensorPrograms {
  Meetings forward_embedding, forward_block, forward_head, backward_head, backward_block,
      backward_embedding;

  constexpr bool consistent() const {
    return forward_embedding.consistent && forward_block.consistent && forward_head.consistent &&
           backward_head.consistent && backward_block.consistent && backward_embedding.consistent;
  }
};

// functions --------------------------------------------------------------------------------------

/// Query, key, value and the first feed-forward matrix are split by output features (whole heads),
/// the two output matrices by input features (Shoeybi et al., arXiv 1909.08053).
constexpr MatrixSplit split_of_matrix(const Parameter& p) {
  if (p.segment != Segment::block) return MatrixSplit::none;
  if (p.name == "attention.output.dense.weight" || p.name == "output.dense.weight")
    return MatrixSplit::rows;
  return MatrixSplit::columns;
}

/// Follows how every tensor is spread through the programs of a step. A product with a matrix that
/// is split by input features leaves summands, and so does the gradient of the input of one that is
/// split by output features: there ranks meet. With `sequence` they keep the rows of sums apart and
/// meet again where a product needs all rows (Korthikanti et al., arXiv 2205.05198).
struct SpreadWriter {
  const Graph& graph;
  bool sequence = false;
  Spread made[64]{};  // as it was produced, which is what backward finds
  Spread now[64]{};   // as it is at this op, perhaps gathered
  Spread stream_after = Spread::whole;
  Meetings* out = nullptr;
  int op = 0;

  constexpr Spread& now_of(Operand x) { return x.shift == 1 ? stream_after : now[x.tensor]; }
  constexpr Spread rows_or_whole() const { return sequence ? Spread::rows : Spread::whole; }

  constexpr void need(Operand x, Spread wanted) {
    Spread& have = now_of(x);
    if (have == wanted || (have == Spread::whole && wanted == Spread::rows)) return;
    if (have == Spread::rows && wanted == Spread::whole) {
      out->list.add({op, true, Collective::all_gather, x.tensor, false});
      have = Spread::whole;
      return;
    }
    out->consistent = false;
  }
  constexpr void make(Operand y, Spread spread, bool adds = false) {
    if (y.tensor == no_tensor) return;
    if (spread == Spread::summand) {
      const bool scatters = sequence && graph.tensors.rows[y.tensor].rows == Rows::tokens;
      out->list.add({op, false, scatters ? Collective::reduce_scatter : Collective::all_reduce,
                     y.tensor, adds});
      spread = scatters ? Spread::rows : Spread::whole;
    }
    if (adds && now_of(y) != spread) out->consistent = false;
    now_of(y) = spread;
    if (y.shift == 0) made[y.tensor] = spread;
  }
  /// For ops on rows: operands that differ are taken by rows.
  constexpr Spread common(Operand a, Operand b) {
    const Spread spread = now_of(a) == now_of(b) ? now_of(a) : Spread::rows;
    need(a, spread);
    need(b, spread);
    return spread;
  }
  constexpr void like_input(const Op& o) {
    const Spread spread =
        o.accumulate_input ? common(o.inputs[0], o.outputs[0]) : now_of(o.inputs[0]);
    for (const Operand& y : o.outputs) make(y, spread, o.accumulate_input);
  }

  constexpr void take(const Op& o) {
    const MatrixSplit split = o.parameter >= 0
                                  ? split_of_matrix(graph.parameters.rows.rows[o.parameter])
                                  : MatrixSplit::none;
    const Operand x = o.inputs[0], y = o.outputs[0];
    switch (o.kind) {
      case OpKind::embed:
        return make(y, Spread::summand);
      case OpKind::embed_backward:
        return need(x, Spread::whole);
      case OpKind::linear:
        need(x, split == MatrixSplit::rows ? Spread::features : Spread::whole);
        return make(y, split == MatrixSplit::none      ? Spread::whole
                       : split == MatrixSplit::columns ? Spread::features
                                                       : Spread::summand);
      case OpKind::linear_backward_weight:
        need(x, split == MatrixSplit::columns ? Spread::features : Spread::whole);
        return need(o.inputs[1], split == MatrixSplit::rows ? Spread::features : Spread::whole);
      case OpKind::linear_backward_input:
        need(x, split == MatrixSplit::columns ? Spread::features : Spread::whole);
        return make(y,
                    split == MatrixSplit::none      ? Spread::whole
                    : split == MatrixSplit::columns ? Spread::summand
                                                    : Spread::features,
                    o.accumulate_input);
      case OpKind::attention:
      case OpKind::gelu:
      case OpKind::attention_backward:
      case OpKind::gelu_backward:
        need(x, Spread::features);
        if (o.kind != OpKind::attention && o.kind != OpKind::gelu)
          need(o.inputs[1], Spread::features);
        return make(y, Spread::features);
      case OpKind::dropout_add:
        return make(y, common(x, o.inputs[1]));
      case OpKind::layer_norm_backward: {
        const Spread spread = common(x, o.inputs[1]);
        out->norm_gradients_are_summands |= spread == Spread::rows;
        return make(y, spread, o.accumulate_input);
      }
      case OpKind::select_first:
      case OpKind::cross_entropy:
        need(x, Spread::whole);
        return make(y, Spread::whole);
      case OpKind::select_first_backward:
        return make(y, rows_or_whole());
      default:
        return like_input(o);
    }
  }

  constexpr void walk(const Program& program, Meetings& meetings) {
    out = &meetings;
    for (int i = 0; i < graph.tensors.size; ++i) now[i] = made[i];
    for (op = 0; op < program.ops.size; ++op) take(program.ops.rows[op]);
    if (program.segment == Segment::embedding) stream_after = made[graph.stream];
  }
};

/// The collectives over tensor ranks in every program of a step.
constexpr TensorPrograms tensor_programs(const Graph& g, bool sequence) {
  TensorPrograms p;
  SpreadWriter w{g, sequence};
  w.walk(g.forward_embedding, p.forward_embedding);
  w.walk(g.forward_block, p.forward_block);
  // A block takes the stream as it hands it on, so one table stands for all.
  p.forward_block.consistent &= w.stream_after == w.made[g.stream];
  w.walk(g.forward_head, p.forward_head);
  w.walk(g.backward_head, p.backward_head);
  const Spread d_stream = w.made[g.d_stream];
  w.walk(g.backward_block, p.backward_block);
  p.backward_block.consistent &= w.made[g.d_stream] == d_stream;
  w.walk(g.backward_embedding, p.backward_embedding);
  return p;
}

/// Bytes that travel whole through the collectives of a program, for `rows` rows of tokens.
constexpr bytes payload_of(const Graph& g, const Meeting& m, const Policy& p) {
  const Tensor& t = g.tensors.rows[m.tensor];
  const bytes rows = t.rows == Rows::tokens ? p.batch.rows() : p.batch.sentence_bound();
  return rows * t.cols * size_of(t.type);
}

}  // namespace ctrain
