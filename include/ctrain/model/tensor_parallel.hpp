/// \file  From the tables of a model to those of one tensor rank, with every exchange as an op.   floor 2: model
#pragma once

#include <ctrain/model/graph.hpp>
#include <ctrain/model/parameters.hpp>
#include <ctrain/policy/policy.hpp>

namespace ctrain {

/// Rewrites the programs of a model, in the order in which they run, into those that each of
/// `ranks` tensor ranks walks. A product with a matrix that is split by input features leaves
/// summands, and so does the gradient of the input of one that is split by output features: there
/// ranks meet (Shoeybi et al., arXiv 1909.08053). With `sequence` they keep the rows of sums apart,
/// and meet again where a product needs all rows (Korthikanti et al., arXiv 2205.05198).
/// `local` begins as a copy of the model's graph with a rank's parameters. Tensors keep their
/// index; what holds summands or gathered rows for a moment is added, one of a kind in a program.
struct TensorRankWriter {
  Graph& local;
  int ranks = 1;
  bool sequence = false;
  Program* program = nullptr;
  bool made[Table<Tensor, 64>::capacity]{};        // its spread is known
  int first_scratch = 0;                           // of this program
  int gathered_by[Table<Tensor, 64>::capacity]{};  // what a scratch tensor holds all rows of

  constexpr Tensor& of(Operand x) { return local.tensors.rows[x.tensor]; }
  constexpr Spread rows_or_whole() const { return sequence ? Spread::rows : Spread::whole; }
  constexpr SplitAxis split_of(const Op& op) const {
    return op.parameter < 0 ? SplitAxis::none : local.parameters.rows.rows[op.parameter].split;
  }

  // tensors --------------------------------------------------------------------------------------

  /// From now on a rank has `spread` of y.
  constexpr void make(Operand y, Spread spread) {
    if (y.tensor == no_tensor) return;
    forget_gathered(y);
    if (made[y.tensor]) return;
    made[y.tensor] = true;
    of(y).spread = spread;
    if (spread == Spread::features) of(y).cols /= ranks;
  }
  /// A tensor for a moment's values: summands or all rows of what `like` is.
  constexpr Operand scratch(std::string_view name, Spread spread, Operand like) {
    const Tensor wanted{name,  of(like).type, of(like).rows, of(like).cols, of(like).is_gradient,
                        false, spread};
    for (int i = first_scratch; i < local.tensors.size; ++i) {
      const Tensor& t = local.tensors.rows[i];
      if (t.name == name && t.type == wanted.type && t.cols == wanted.cols) return {i};
    }
    made[local.tensors.size] = true;
    gathered_by[local.tensors.size] = no_tensor;
    return {local.tensors.add(wanted)};
  }
  constexpr void forget_gathered(Operand y) {
    for (int i = first_scratch; i < local.tensors.size; ++i)
      if (gathered_by[i] == y.tensor) gathered_by[i] = no_tensor;
  }

  // exchanges ------------------------------------------------------------------------------------

  /// x with all rows: itself, or a copy that is gathered unless it stands there already.
  constexpr Operand all_rows(Operand x) {
    if (of(x).spread != Spread::rows) return x;
    const Operand copy = scratch("gathered rows", Spread::whole, x);
    if (gathered_by[copy.tensor] != x.tensor) {
      Op gather{.kind = OpKind::all_gather};
      gather.inputs[0] = x;
      gather.outputs[0] = copy;
      program->ops.add(gather);
      gathered_by[copy.tensor] = x.tensor;
    }
    return copy;
  }
  constexpr void sum(Operand summand, Operand y) {
    const bool scatters = summand.tensor != y.tensor && of(y).spread == Spread::rows;
    Op op{.kind = scatters ? OpKind::reduce_scatter : OpKind::all_reduce};
    op.inputs[0] = summand;
    op.outputs[0] = y;
    if (scatters) op.outputs[1] = summand;
    program->ops.add(op);
  }
  /// Emits an op that leaves a summand of its output, and the exchange that makes the output of it.
  /// Where the op adds to what stands there, the sum is made apart and added then.
  constexpr void emit_summand(Op op) {
    const Operand y = op.outputs[0];
    const bool scatters = sequence && of(y).rows == Rows::tokens;
    make(y, scatters ? Spread::rows : Spread::whole);
    const bool adds = op.accumulate_input;
    const Operand total = !adds ? y : scratch("sum to add", of(y).spread, y);
    const Operand summand = scatters ? scratch("summand", Spread::summand, y) : total;
    op.accumulate_input = false;
    op.outputs[0] = summand;
    program->ops.add(op);
    sum(summand, total);
    if (!adds) return;
    Op add{.kind = OpKind::cast_backward, .accumulate_input = true};
    add.inputs[0] = total;
    add.outputs[0] = y;
    program->ops.add(add);
  }

  // ops ------------------------------------------------------------------------------------------

  /// Emits an op whose outputs are all spread alike.
  constexpr void emit(const Op& op, Spread spread) {
    for (const Operand& y : op.outputs) make(y, spread);
    program->ops.add(op);
  }

  /// A product of x with a matrix, its gradient for x or for the matrix. Inputs that are not
  /// features are taken with all rows.
  constexpr void product(Op op) {
    const SplitAxis split = split_of(op);
    if (split == SplitAxis::rows) op.out /= ranks;
    if (split == SplitAxis::cols) op.in /= ranks;
    for (Operand& x : op.inputs)
      if (x.tensor != no_tensor) x = all_rows(x);
    const SplitAxis sums = op.kind == OpKind::linear ? SplitAxis::cols : SplitAxis::rows;
    if (op.kind == OpKind::linear_backward_weight || split == SplitAxis::none)
      return emit(op, Spread::whole);
    if (split == sums) return emit_summand(op);
    emit(op, Spread::features);
  }

  constexpr void take(Op op) {
    switch (op.kind) {
      case OpKind::embed:
        return emit_summand(op);
      case OpKind::embed_backward:
        op.inputs[0] = all_rows(op.inputs[0]);
        return emit(op, Spread::whole);
      case OpKind::linear:
      case OpKind::linear_backward_input:
      case OpKind::linear_backward_weight:
        return product(op);
      case OpKind::attention:
      case OpKind::attention_backward: {
        // The workspace, last of the outputs, is each rank's own.
        const int workspace = op.kind == OpKind::attention ? 2 : 1;
        for (int k = 0; k < workspace; ++k) make(op.outputs[k], Spread::features);
        make(op.outputs[workspace], Spread::whole);
        program->ops.add(op);
        return;
      }
      case OpKind::select_first:  // a sentence's first row is with one rank
        return sequence ? emit_summand(op) : emit(op, Spread::whole);
      case OpKind::select_first_backward:
        return emit(op, rows_or_whole());
      default:
        return emit(op, of(op.inputs[0]).spread);
    }
  }

  constexpr void rewrite(Program& p) {
    const Program whole = p;
    program = &p;
    p.ops.size = 0;
    first_scratch = local.tensors.size;
    for (int i = 0; i < whole.ops.size; ++i) take(whole.ops.rows[i]);
  }
};

/// What one of the policy's tensor ranks does in a step, given what one rank alone would do. All
/// ranks of a group have the same graph: they differ in where their parts begin.
constexpr Graph graph_of_tensor_rank(const Graph& whole, const Policy& p) {
  Graph g = whole;
  if (p.parallel.tensor == 1) return g;
  g.parameters = parameters_of(p.model, p.parallel.tensor);
  TensorRankWriter w{g, p.parallel.tensor, p.parallel.sequence};
  for (Program* program :
       {&g.forward_embedding, &g.forward_block, &g.forward_head, &g.backward_head,
        &g.recompute_block, &g.backward_block, &g.backward_embedding})
    w.rewrite(*program);
  return g;
}

// proofs -----------------------------------------------------------------------------------------

namespace tensor_parallel {

constexpr bool is_sum(const Op& op) {
  return op.kind == OpKind::all_reduce || op.kind == OpKind::reduce_scatter;
}

/// True iff the op leaves, in its first output, a value that must be summed over the ranks.
constexpr bool leaves_summand(const Graph& g, const Op& op, bool sequence) {
  const SplitAxis split =
      op.parameter < 0 ? SplitAxis::none : g.parameters.rows.rows[op.parameter].split;
  return op.kind == OpKind::embed || (op.kind == OpKind::select_first && sequence) ||
         (op.kind == OpKind::linear && split == SplitAxis::cols) ||
         (op.kind == OpKind::linear_backward_input && split == SplitAxis::rows);
}

/// What the op must find in its k-th input.
constexpr bool finds_what_it_needs(const Graph& g, const Op& op, int k) {
  const Spread spread = g.tensors.rows[op.inputs[k].tensor].spread;
  const SplitAxis split =
      op.parameter < 0 ? SplitAxis::none : g.parameters.rows.rows[op.parameter].split;
  switch (op.kind) {
    case OpKind::linear:
      return spread == (split == SplitAxis::cols ? Spread::features : Spread::whole);
    case OpKind::linear_backward_input:
      return spread == (split == SplitAxis::rows ? Spread::features : Spread::whole);
    case OpKind::linear_backward_weight: {
      const SplitAxis features = k == 0 ? SplitAxis::rows : SplitAxis::cols;
      return spread == (split == features ? Spread::features : Spread::whole);
    }
    case OpKind::attention:
    case OpKind::attention_backward:
    case OpKind::gelu:
    case OpKind::gelu_backward:
      return spread == Spread::features;
    case OpKind::embed_backward:
    case OpKind::cross_entropy:
      return spread == Spread::whole;
    case OpKind::all_gather:
      return spread == Spread::rows;
    case OpKind::reduce_scatter:
      return spread == Spread::summand;
    case OpKind::select_first:
    case OpKind::select_first_backward:
    case OpKind::all_reduce:
      return spread == Spread::whole || spread == Spread::rows;
    default:  // row by row: all inputs alike
      return spread != Spread::summand && spread == g.tensors.rows[op.inputs[0].tensor].spread;
  }
}

/// How a rank has the k-th output of an op that leaves no summand.
constexpr bool makes_what_it_should(const Graph& g, const Op& op, int k) {
  const Spread spread = g.tensors.rows[op.outputs[k].tensor].spread;
  const SplitAxis split =
      op.parameter < 0 ? SplitAxis::none : g.parameters.rows.rows[op.parameter].split;
  switch (op.kind) {
    case OpKind::linear:
    case OpKind::linear_backward_input:
      return spread == (split == SplitAxis::none ? Spread::whole : Spread::features);
    case OpKind::attention:  // the last output is a workspace
      return spread == (k < 2 ? Spread::features : Spread::whole);
    case OpKind::attention_backward:
      return spread == (k < 1 ? Spread::features : Spread::whole);
    case OpKind::select_first:
    case OpKind::all_gather:
      return spread == Spread::whole;
    case OpKind::reduce_scatter:  // the last output is the summand
      return spread == (k < 1 ? Spread::rows : Spread::summand);
    case OpKind::select_first_backward:
      return spread == g.tensors.rows[g.stream].spread;
    default:
      return spread == g.tensors.rows[op.inputs[0].tensor].spread;
  }
}

/// Follows a rank's program beside the model's.
struct Comparison {
  const Graph& whole;
  const Graph& local;
  bool sequence = false;
  int rows_of[Table<Tensor, 64>::capacity]{};  // whose rows have been gathered there

  constexpr Comparison(const Graph& w, const Graph& l, bool s) : whole(w), local(l), sequence(s) {
    for (int& t : rows_of) t = no_tensor;
  }

  constexpr Operand stands_for(Operand x) const {
    return x.tensor >= whole.tensors.size ? Operand{rows_of[x.tensor]} : x;
  }
  constexpr void written(Operand y) {
    for (int i = whole.tensors.size; i < local.tensors.size; ++i)
      if (rows_of[i] == y.tensor) rows_of[i] = no_tensor;
  }
  constexpr bool spread_is_right(const Op& op) const {
    for (int k = 0; k < 4; ++k)
      if (op.inputs[k].tensor != no_tensor && !finds_what_it_needs(local, op, k)) return false;
    if (leaves_summand(local, op, sequence)) return true;
    for (int k = 0; k < 3; ++k)
      if (op.outputs[k].tensor != no_tensor && !makes_what_it_should(local, op, k)) return false;
    return true;
  }
  constexpr bool takes_the_same(const Op& w, const Op& l) const {
    for (int k = 0; k < 4; ++k)
      if (!(stands_for(l.inputs[k]) == w.inputs[k])) return false;
    return w.kind == l.kind && w.parameter == l.parameter && w.bias == l.bias && w.site == l.site;
  }

  constexpr bool agree(const Program& w, const Program& l) {
    int at = 0;
    const auto next = [&] { return at < l.ops.size ? l.ops.rows[at++] : Op{}; };
    for (int i = 0; i < w.ops.size; ++i) {
      const Op& model = w.ops.rows[i];
      Op op = next();
      for (; op.kind == OpKind::all_gather; op = next()) {
        if (!spread_is_right(op)) return false;
        rows_of[op.outputs[0].tensor] = op.inputs[0].tensor;
      }
      if (!takes_the_same(model, op) || !spread_is_right(op)) return false;
      bool adds = op.accumulate_input;
      Operand result = op.outputs[0];
      if (leaves_summand(local, op, sequence)) {
        const Op sum = next();
        if (!is_sum(sum) || !(sum.inputs[0] == result) || !spread_is_right(sum)) return false;
        result = sum.outputs[0];
        if (model.accumulate_input) {
          const Op add = next();
          if (add.kind != OpKind::cast_backward || !(add.inputs[0] == result) ||
              !spread_is_right(add))
            return false;
          adds = add.accumulate_input;
          result = add.outputs[0];
        }
      }
      if (!(result == model.outputs[0]) || adds != model.accumulate_input) return false;
      for (const Operand& y : model.outputs) written(y);
    }
    return at == l.ops.size;
  }
};

}  // namespace tensor_parallel

/// Which gradients of parameters that tensor ranks have whole are made of a rank's own rows only:
/// with `sequence` those of norms over the rows of the stream, and no others. The head's norm sees
/// one row a sentence, which all ranks have.
constexpr bool norms_alone_see_own_rows(const Graph& g, bool sequence) {
  for (const Program* program : {&g.backward_head, &g.backward_block, &g.backward_embedding})
    for (int i = 0; i < program->ops.size; ++i) {
      const Op& op = program->ops.rows[i];
      if (op.kind != OpKind::layer_norm_backward && op.kind != OpKind::linear_backward_weight &&
          op.kind != OpKind::embed_backward)
        continue;
      const bool norm_of_stream =
          op.kind == OpKind::layer_norm_backward && program->segment != Segment::head;
      const bool own_rows = g.tensors.rows[op.inputs[0].tensor].spread == Spread::rows;
      if (own_rows != (sequence && norm_of_stream)) return false;
    }
  return true;
}

/// A rank's programs are the model's, op by op, with every operand spread as its op needs it and
/// every summand summed before it is used.
constexpr bool tensor_rank_does_what_the_model_does(const Graph& whole, const Graph& local,
                                                    bool sequence) {
  constexpr Program Graph::*programs[] = {&Graph::forward_embedding, &Graph::forward_block,
                                          &Graph::forward_head,      &Graph::backward_head,
                                          &Graph::recompute_block,   &Graph::backward_block,
                                          &Graph::backward_embedding};
  for (const auto program : programs)
    if (tensor_parallel::Comparison c(whole, local, sequence);
        !c.agree(whole.*program, local.*program))
      return false;
  return true;
}

}  // namespace ctrain
