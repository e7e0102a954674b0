/// \file  The backward pass, derived op by op from the forward tables.   floor 2: model
#pragma once

#include <ctrain/model/encoder.hpp>
#include <ctrain/model/graph.hpp>
#include <ctrain/model/tensor_parallel.hpp>

#include <string_view>

namespace ctrain {

/// Reverse-mode differentiation over tables. Every forward kind has one rule; a rule asks for the
/// gradient of its output, emits its ops, and says where the gradient of its input stands. A second
/// gradient that reaches the same tensor is added to the first one in place.
struct BackwardWriter {
  Graph& graph;
  Program& program;
  // gradients[t] is the tensor that holds the gradient of tensor t (shift 0); the stream handed on
  // (shift 1) has its own slot. Sums are accumulated in place, so one tensor can serve many.
  int gradients[Table<Tensor, 64>::capacity]{};
  int gradient_of_next_stream = no_tensor;

  constexpr BackwardWriter(Graph& g, Program& p) : graph(g), program(p) {
    for (int& t : gradients) t = no_tensor;
  }

  constexpr int& gradient(Operand x) {
    return x.shift == 1 ? gradient_of_next_stream : gradients[x.tensor];
  }
  constexpr Operand gradient_operand(Operand x) { return {gradient(x)}; }

  /// A tensor for the gradient of x, of x's own type, unless one is there already.
  constexpr bool has_gradient(Operand x) { return gradient(x) != no_tensor; }
  constexpr Operand new_gradient(Operand x) {
    const Tensor& t = graph.tensors.rows[x.tensor];
    const int made =
        t.is_stream ? stream_gradient() : graph.tensors.add({t.name, t.type, t.rows, t.cols, true});
    gradient(x) = made;
    return {made};
  }
  constexpr int stream_gradient() {
    if (graph.d_stream == no_tensor) {
      Tensor t = graph.tensors.rows[graph.stream];
      t.is_stream = false;
      t.is_gradient = true;
      graph.d_stream = graph.tensors.add(t);
    }
    return graph.d_stream;
  }

  /// Emits `op`, which writes the gradient of x as its first output, or adds to it.
  constexpr void emit_input_gradient(Op op, Operand x) {
    op.accumulate_input = has_gradient(x);
    op.outputs[0] = op.accumulate_input ? gradient_operand(x) : new_gradient(x);
    program.ops.add(op);
  }
  /// Emits `op`, which turns the gradient of `from` in place into the gradient of `to`.
  constexpr void emit_in_place(Op op, Operand from, Operand to) {
    op.outputs[0] = gradient_operand(from);
    gradient(to) = gradient(from);
    program.ops.add(op);
  }

  constexpr void derive(const Op& f) {
    const Operand x = f.inputs[0], y = f.outputs[0];
    Op b{.parameter = f.parameter, .bias = f.bias, .in = f.in, .out = f.out, .site = f.site};
    b.inputs[0] = gradient_operand(y);
    switch (f.kind) {
      case OpKind::cross_entropy:
        b.kind = OpKind::cross_entropy_backward;
        b.inputs[0] = x;
        return emit_input_gradient(b, x);
      case OpKind::linear: {
        Op w = b;
        w.kind = OpKind::linear_backward_weight;
        w.inputs[1] = x;
        program.ops.add(w);
        b.kind = OpKind::linear_backward_input;
        return emit_input_gradient(b, x);
      }
      case OpKind::tanh:
        b.kind = OpKind::tanh_backward;
        b.inputs[1] = y;
        return emit_in_place(b, y, x);
      case OpKind::gelu:
        b.kind = OpKind::gelu_backward;
        b.inputs[1] = x;
        return emit_in_place(b, y, x);
      case OpKind::dropout:
        b.kind = OpKind::dropout_backward;
        return emit_in_place(b, y, x);
      case OpKind::dropout_add: {
        const Operand branch = x, residual = f.inputs[1];
        b.kind = OpKind::dropout_add_backward;
        b.outputs[0] = new_gradient(branch);
        program.ops.add(b);
        gradient(residual) = gradient(y);  // d_residual is d_sum itself
        return;
      }
      case OpKind::cast:
        b.kind = OpKind::cast_backward;
        return emit_input_gradient(b, x);
      case OpKind::layer_norm:
        b.kind = OpKind::layer_norm_backward;
        b.inputs[1] = x;
        b.inputs[2] = f.outputs[1];
        b.inputs[3] = f.outputs[2];
        if (has_gradient(x) || graph.tensors.rows[y.tensor].type != DType::fp32)
          return emit_input_gradient(b, x);
        return emit_in_place(b, y, x);
      case OpKind::attention:
        b.kind = OpKind::attention_backward;
        b.inputs[1] = y;
        b.inputs[2] = x;
        b.inputs[3] = f.outputs[1];
        b.outputs[1] = f.outputs[2];  // workspace
        return emit_input_gradient(b, x);
      case OpKind::select_first:
        b.kind = OpKind::select_first_backward;
        return emit_input_gradient(b, x);
      case OpKind::embed:
        b.kind = OpKind::embed_backward;
        program.ops.add(b);
        return;
      default:
        return;  // a backward kind: never in a forward table
    }
  }

  constexpr void derive_all(const Program& forward) {
    program.segment = forward.segment;
    for (int i = forward.ops.size - 1; i >= 0; --i) derive(forward.ops.rows[i]);
  }
};

/// The ops of `forward` that `backward` cannot do without, given the block's input. An op that
/// writes the stream which the block hands on is not among them: done again, it would write over
/// what stands in the next block's place by then. What else it wrote is kept from forward: two
/// numbers a row, where it is a norm.
constexpr Program needed_again(const Program& forward, const Program& backward) {
  bool needed[64]{}, keep[32]{};
  for (int i = 0; i < backward.ops.size; ++i)
    for (const Operand& x : backward.ops.rows[i].inputs)
      if (x.tensor != no_tensor) needed[x.tensor] = true;
  for (int i = forward.ops.size - 1; i >= 0; --i) {
    const Op& op = forward.ops.rows[i];
    if (op.outputs[0].shift == 1) continue;
    for (const Operand& y : op.outputs)
      if (y.tensor != no_tensor && needed[y.tensor]) keep[i] = true;
    if (!keep[i]) continue;
    for (const Operand& x : op.inputs)
      if (x.tensor != no_tensor) needed[x.tensor] = true;
  }
  Program p{.segment = forward.segment, .ops = {}};
  for (int i = 0; i < forward.ops.size; ++i)
    if (keep[i]) p.ops.add(forward.ops.rows[i]);
  return p;
}

/// Gives what `again` writes tensors of its own, and lets `again` and `backward` use those: a value
/// that is computed twice need not stand in the same place twice.
constexpr void write_elsewhere(Graph& g, Program& again, Program& backward) {
  int copies[Table<Tensor, 64>::capacity]{};
  for (int& copy : copies) copy = no_tensor;
  for (int i = 0; i < again.ops.size; ++i)
    for (const Operand& y : again.ops.rows[i].outputs)
      if (y.tensor != no_tensor) copies[y.tensor] = g.tensors.add(g.tensors.rows[y.tensor]);
  for (Program* program : {&again, &backward})
    for (int i = 0; i < program->ops.size; ++i) {
      Op& op = program->ops.rows[i];
      for (Operand& x : op.inputs)
        if (x.tensor != no_tensor && copies[x.tensor] != no_tensor) x.tensor = copies[x.tensor];
      for (Operand& y : op.outputs)
        if (y.tensor != no_tensor && copies[y.tensor] != no_tensor) y.tensor = copies[y.tensor];
    }
}

/// The step of one rank that has the whole model: forward tables and the backward tables derived
/// from them. The gradient of the stream lives in one tensor, which each block takes and leaves.
constexpr Graph derive_whole_graph(const Policy& p) {
  Graph g = forward_graph(p);
  BackwardWriter head{g, g.backward_head};
  head.derive_all(g.forward_head);
  BackwardWriter block{g, g.backward_block};
  block.gradient_of_next_stream = g.d_stream;
  block.derive_all(g.forward_block);
  g.recompute_block = needed_again(g.forward_block, g.backward_block);
  if (p.recompute == Recompute::full) write_elsewhere(g, g.recompute_block, g.backward_block);
  BackwardWriter embedding{g, g.backward_embedding};
  embedding.gradients[g.stream] = g.d_stream;
  embedding.derive_all(g.forward_embedding);
  return g;
}

/// The step of one of a policy's ranks.
constexpr Graph derive_graph(const Policy& p) {
  return graph_of_tensor_rank(derive_whole_graph(p), p);
}

}  // namespace ctrain
