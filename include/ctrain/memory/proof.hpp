/// \file  That a plan is right: nothing that lives at once shares a byte, and nothing is missing.   floor 3: memory
#pragma once

#include <ctrain/memory/plan.hpp>

namespace ctrain {

namespace proof {

/// Address of a tensor as the last block sees it.
constexpr Placement in_last_block(const MemoryPlan& m, const Lifetime& l, int layers) {
  Placement at = l.next_stream ? m.stream_after_last : m.tensors[l.tensor];
  if (at.per_block) at.offset += m.slot * (layers - 1);
  return at;
}

constexpr bool apart(const Placement& a, const Placement& b) {
  return a.offset + a.size <= b.offset || b.offset + b.size <= a.offset;
}

}  // namespace proof

/// No two tensors that live at the same time share a byte. Shown for the last block, and thereby
/// for every block: a per-block tensor of block i < layers - 1 lies below the last slot, where
/// nothing short-lived is placed, and slots do not overlap, since each per-block tensor ends within
/// its own. Where several micro-batches are in flight, the same holds for what each keeps: it lies
/// in its own stretch, which is as long as the distance to the next, and all else lies after them.
constexpr bool no_live_tensors_overlap(const Graph& g, const Policy& p, const MemoryPlan& m,
                                       int stage = 0) {
  const Lifetimes l = lifetimes_of(g, p, stage);
  const Split split = split_of(p);
  const int layers = p.model.layers / split.grid.pipeline;
  const bytes last_slot = m.step.offset + m.last_slot,
              first_slot = last_slot - m.slot * (layers - 1);
  const bytes first_end = m.step.offset + m.micro_batch,
              all_end = m.step.offset + split.slots(stage) * m.micro_batch;
  for (int i = 0; i < l.rows.size; ++i) {
    const Lifetime& a = l.rows.rows[i];
    const Placement at = proof::in_last_block(m, a, layers);
    if (at.size != a.size || at.offset < m.step.offset || at.offset + at.size > m.step.end())
      return false;
    if (at.per_block && (at.offset < last_slot || at.offset + at.size > last_slot + m.slot))
      return false;
    if (!at.per_block && at.offset < last_slot && at.offset + at.size > first_slot) return false;
    if (m.micro_batch > 0 && (at.kept ? at.offset + at.size > first_end : at.offset < all_end))
      return false;
    for (int j = i + 1; j < l.rows.size; ++j)
      if (a.overlaps(l.rows.rows[j]) &&
          !proof::apart(at, proof::in_last_block(m, l.rows.rows[j], layers)))
        return false;
  }
  return true;
}

/// True iff an op of the program writes the residual stream.
constexpr bool writes_stream(const Graph& g, const Program& program) {
  for (int i = 0; i < program.ops.size; ++i)
    for (const Operand& y : program.ops.rows[i].outputs)
      if (y.tensor == g.stream) return true;
  return false;
}

/// What a block hands on is what the next block takes, and what its backward leaves is what the
/// backward of the block before takes: the tables can be repeated. A block's backward writes no
/// stream, since its output's place is the next block's, where other things stand by then.
constexpr bool blocks_chain(const Graph& g, const MemoryPlan& m, const Policy& p) {
  const Placement stream = m.tensors[g.stream];
  const bytes step = stream.per_block ? m.slot : 0;
  if (m.stream_after_last.offset != stream.offset + step * (p.model.layers / p.parallel.pipeline))
    return false;
  if (writes_stream(g, g.recompute_block) || writes_stream(g, g.backward_block)) return false;
  int writes_stream_gradient = 0;
  for (int i = 0; i < g.backward_block.ops.size; ++i)
    writes_stream_gradient += g.backward_block.ops.rows[i].outputs[0].tensor == g.d_stream;
  return writes_stream_gradient > 0 && g.d_stream != no_tensor && !m.tensors[g.d_stream].per_block;
}

/// Regions follow each other without gap or overlap, aligned, from byte 0.
constexpr bool regions_tile_the_arena(const MemoryPlan& m) {
  bytes at = 0;
  for (const Region& r : {m.parameters, m.gradients, m.first_moment, m.second_moment, m.optimizer,
                          m.weight_copies, m.batch, m.communication, m.scratch, m.step}) {
    if (r.offset != at || r.offset % tensor_alignment != 0) return false;
    at = r.end();
  }
  return at == m.arena();
}

/// Every parameter gets exactly one gradient from the backward tables.
constexpr bool every_parameter_has_one_gradient(const Graph& g) {
  int written[Table<Parameter, 40>::capacity]{};
  for (const Program* program : {&g.backward_head, &g.backward_block, &g.backward_embedding})
    for (int i = 0; i < program->ops.size; ++i) {
      const Op& op = program->ops.rows[i];
      const bool qkv = op.kind == OpKind::linear_backward_weight && op.bias - op.parameter == 3;
      const int span = qkv || op.kind == OpKind::embed_backward ? 3 : 1;
      if (op.kind != OpKind::linear_backward_weight && op.kind != OpKind::layer_norm_backward &&
          op.kind != OpKind::embed_backward)
        continue;
      for (int k = 0; k < span; ++k) ++written[op.parameter + k];
      if (op.bias >= 0)
        for (int k = 0; k < span; ++k) ++written[op.bias + k];
    }
  for (int i = 0; i < g.parameters.rows.size; ++i)
    if (written[i] != 1) return false;
  return true;
}

}  // namespace ctrain
