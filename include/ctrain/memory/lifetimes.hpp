/// \file  When each tensor of a step lives, over a timeline that does not grow with depth.   floor 3: memory
#pragma once

#include <ctrain/core/table.hpp>
#include <ctrain/core/units.hpp>
#include <ctrain/memory/split.hpp>
#include <ctrain/model/graph.hpp>
#include <ctrain/policy/policy.hpp>

namespace ctrain {

// The timeline has one instance of the block, the last one: embedding, block and head forward;
// head, block and embedding backward. That is the moment at which memory is scarcest, since every
// other block's saved tensors are alive then; for the other blocks the same addresses are free a
// fortiori. A pipeline's stage has some of this, and moments at which it takes a stream and hands
// one on; where it works on several micro-batches in turn, whatever one keeps from its forward to
// its backward is kept throughout.

/// Ops [first, last] during which a value must be kept.
struct Interval {
  int first = 0, last = 0;
};

/// A tensor with all its lives. The stream has two: as the block's input and as its output.
struct Lifetime {
  int tensor = no_tensor;
  bool next_stream = false;  // the stream after the last block
  bytes size = 0;
  Table<Interval, 4> lives{};
  bool written_by_embedding = false;
  bool written_by_block = false;  // in forward
  bool written_again = false;     // in backward, by a recomputed op or as a workspace
  bool read_by_backward = false;  // of the block, as forward wrote it: each block keeps its own
  bool written_by_head = false;   // in forward
  bool read_later = false;        // by any backward, as forward wrote it
  bool made_for_weights = false;  // a gradient that a product for a weight reads
  bool of_block = false;          // a product of the block
  bool kept = false;              // each micro-batch in flight has its own

  constexpr bool overlaps(const Lifetime& other) const {
    for (int i = 0; i < lives.size; ++i)
      for (int j = 0; j < other.lives.size; ++j)
        if (lives.rows[i].first <= other.lives.rows[j].last &&
            other.lives.rows[j].first <= lives.rows[i].last)
          return true;
    return false;
  }
  constexpr bool alive_at(int time) const {
    for (int i = 0; i < lives.size; ++i)
      if (lives.rows[i].first <= time && time <= lives.rows[i].last) return true;
    return false;
  }
};

struct Lifetimes {
  Table<Lifetime, 64> rows;
  int length = 0;  // ops on the timeline
};

inline constexpr bytes tensor_alignment = 64;

/// Bytes of one instance of a tensor, at the policy's bounds, rounded up to the alignment.
constexpr bytes size_of(const Tensor& t, const Policy& p) {
  const std::int64_t rows = t.spread == Spread::rows    ? p.batch.rows() / p.parallel.tensor
                            : t.rows == Rows::tokens    ? p.batch.rows()
                            : t.rows == Rows::sentences ? p.batch.sentence_bound()
                                                        : p.device.workers;
  return round_up(rows * t.cols * size_of(t.type), tensor_alignment);
}

namespace lifetimes {

/// Walks programs in order and keeps each tensor's lives. A write that does not read the old value
/// begins a life; the last touch before the next such write ends it.
struct Walker {
  const Graph& graph;
  const Policy& policy;
  Lifetimes out;
  int index[2][64]{};  // [is next stream][tensor] -> row, or -1

  constexpr Walker(const Graph& g, const Policy& p) : graph(g), policy(p) {
    for (auto& row : index)
      for (int& i : row) i = -1;
  }

  constexpr Lifetime& row_of(Operand x, const Program& program) {
    const bool next = graph.tensors.rows[x.tensor].is_stream &&
                      (x.shift == 1 || program.segment == Segment::head);
    int& i = index[next][x.tensor];
    if (i < 0)
      i = out.rows.add({.tensor = x.tensor,
                        .next_stream = next,
                        .size = size_of(graph.tensors.rows[x.tensor], policy)});
    return out.rows.rows[i];
  }

  /// A tensor that comes from, or goes to, another stage at this moment.
  constexpr void come(Operand x) {
    row_of(x, graph.forward_block).lives.add({out.length, out.length});
    ++out.length;
  }
  constexpr void go(Operand x) {
    Lifetime& l = row_of(x, graph.forward_block);
    l.lives.rows[l.lives.size - 1].last = out.length++;
  }

  constexpr void walk(const Program& program, bool backward) {
    for (int i = 0; i < program.ops.size; ++i, ++out.length) {
      const Op& op = program.ops.rows[i];
      for (const Operand& x : op.inputs)
        if (x.tensor != no_tensor) touch(row_of(x, program), program, backward);
      if (op.kind == OpKind::linear_backward_weight) {
        Lifetime& l = row_of(op.inputs[0], program);
        l.made_for_weights = true;
        l.of_block = program.segment == Segment::block;
      }
      for (int k = 0; k < 3; ++k) {
        const Operand y = op.outputs[k];
        if (y.tensor == no_tensor) continue;
        const bool reads = (k == 0 && op.accumulate_input) || is_input(op, y);
        if (reads)
          touch(row_of(y, program), program, backward);
        else
          begin(row_of(y, program), program, backward);
      }
    }
  }

 private:
  static constexpr bool is_input(const Op& op, Operand y) {
    for (const Operand& x : op.inputs)
      if (x == y) return true;
    return false;
  }
  constexpr void begin(Lifetime& l, const Program& program, bool backward) {
    l.lives.add({out.length, out.length});
    if (!backward && program.segment == Segment::block) l.written_by_block = true;
    if (!backward && program.segment == Segment::embedding) l.written_by_embedding = true;
    if (!backward && program.segment == Segment::head) l.written_by_head = true;
    if (backward) l.written_again = true;
  }
  constexpr void touch(Lifetime& l, const Program& program, bool backward) {
    l.lives.rows[l.lives.size - 1].last = out.length;
    if (backward && !l.written_again) l.read_later = true;
    if (backward && program.segment == Segment::block && !l.written_again)
      l.read_by_backward = true;
  }
};

}  // namespace lifetimes

/// What the embedding keeps for its own backward stands below all blocks' slots, where nothing
/// short-lived may stand: it lives from the first op to the last.
constexpr void keep_what_the_embedding_saves(Lifetimes& l, const Graph& g) {
  for (int i = 0; i < l.rows.size; ++i) {
    Lifetime& row = l.rows.rows[i];
    if (row.written_by_embedding && row.read_later && !g.tensors.rows[row.tensor].is_stream)
      row.lives.rows[0] = {0, l.length - 1};
  }
}

/// Where a block's backward does not read its input again, every block's input and output is one
/// tensor: the output is written after the last read of the input.
constexpr void merge_streams(Lifetimes& l, const Graph& g) {
  int in = -1, out = -1;
  for (int i = 0; i < l.rows.size; ++i)
    if (g.tensors.rows[l.rows.rows[i].tensor].is_stream)
      (l.rows.rows[i].next_stream ? out : in) = i;
  Lifetime& a = l.rows.rows[in];
  const Lifetime b = l.rows.rows[out];
  if (a.read_by_backward || a.overlaps(b)) return;
  for (int i = 0; i < b.lives.size; ++i) a.lives.add(b.lives.rows[i]);
  for (int i = out; i + 1 < l.rows.size; ++i) l.rows.rows[i] = l.rows.rows[i + 1];
  --l.rows.size;
}

/// Where a stage has several micro-batches in flight, everything that one has made for its
/// backward, or for products that come later still, lives throughout.
constexpr void keep_for_each_micro_batch(Lifetimes& l, const Graph& g, bool weights_later) {
  for (int i = 0; i < l.rows.size; ++i) {
    Lifetime& row = l.rows.rows[i];
    row.kept = row.read_later || g.tensors.rows[row.tensor].is_stream ||
               (weights_later && row.made_for_weights);
    if (!row.kept) continue;
    row.lives = {};
    row.lives.add({0, l.length - 1});
  }
}

/// Lives of every tensor of a step of one pipeline stage. Losses and predictions live to the end:
/// the host reads them then.
constexpr Lifetimes lifetimes_of(const Graph& g, const Policy& p, int stage = 0) {
  const Split split = split_of(p);
  const bool first = stage == 0, last = stage + 1 == split.grid.pipeline;
  lifetimes::Walker w{g, p};
  if (first) w.walk(g.forward_embedding, false);
  if (!first) w.come({g.stream});
  w.walk(g.forward_block, false);
  if (last) w.walk(g.forward_head, false);
  if (last) w.walk(g.backward_head, true);
  if (!last) w.go({g.stream, 1}), w.come({g.d_stream});
  if (p.recompute == Recompute::full) w.walk(g.recompute_block, true);
  w.walk(g.backward_block, true);
  if (first) w.walk(g.backward_embedding, true);
  if (!first) w.go({g.d_stream});
  const Op& loss = g.forward_head.ops.rows[g.forward_head.ops.size - 1];
  for (int k = 0; last && k < 2; ++k) {
    Lifetime& l = w.row_of(loss.outputs[k], g.forward_head);
    l.lives.rows[l.lives.size - 1].last = w.out.length - 1;
  }
  keep_what_the_embedding_saves(w.out, g);
  merge_streams(w.out, g);
  if (split.grid.pipeline > 1)
    keep_for_each_micro_batch(w.out, g, split.order == PipelineOrder::zero_bubble);
  return w.out;
}

}  // namespace ctrain
