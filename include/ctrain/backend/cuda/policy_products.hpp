/// \file  Every product that a policy's steps ask of a device, so that each has its algorithm before the first.   floor 5: backend
#pragma once

#include <ctrain/backend/cuda/product_shapes.hpp>
#include <ctrain/memory/plan.hpp>
#include <ctrain/model/graph.hpp>
#include <ctrain/model/row_counts.hpp>

#include <set>
#include <vector>

namespace ctrain::cuda {

namespace policy_products {

/// Calls act(T{}) with the type of that name.
template <class Act> void with_type(DType type, Act&& act) {
  if (type == DType::bf16)
    act(bf16());
  else if (type == DType::fp16)
    act(fp16());
  else
    act(0.0f);
}

/// The shapes of one op of a program, as KernelCalls asks for them: with what the library may do on
/// the way, and without.
class ShapesOf {
 public:
  ShapesOf(const Graph& graph, const Policy& policy) : graph_(graph), policy_(policy) {}

  void add(const Op& op) {
    if (op.kind != OpKind::linear && op.kind != OpKind::linear_backward_input &&
        op.kind != OpKind::linear_backward_weight)
      return;
    const Tensor& first = graph_.tensors.rows[op.inputs[0].tensor];
    for (const int rows : row_counts(policy_.batch, first.rows))
      with_type(first.type, [&]<class T>(T) {
        if (op.kind == OpKind::linear)
          add_forward<T>(op, rows);
        else if (op.kind == OpKind::linear_backward_input)
          add_backward_input<T>(op, rows);
        else
          add_backward_weight<T>(op, rows);
      });
  }
  const std::set<ProductShape>& all() const { return shapes_; }

 private:
  template <class T> void add_forward(const Op& op, int rows) {
    LinearForward<T> call{};
    call.weight.out = op.out, call.weight.in = op.in, call.rows = rows;
    add(shape_of(call), {Epilogue::none, Epilogue::bias, Epilogue::bias_gelu});
  }
  template <class T> void add_backward_input(const Op& op, int rows) {
    with_type(graph_.tensors.rows[op.outputs[0].tensor].type, [&]<class DX>(DX) {
      if constexpr (std::is_same_v<DX, T> || std::is_same_v<DX, float>) {
        LinearBackwardInput<T, DX> call{};
        call.weight.out = op.out, call.weight.in = op.in, call.rows = rows;
        call.accumulate_input = op.accumulate_input;
        add(shape_of(call), {Epilogue::none});
        if (std::is_same_v<DX, T> && !op.accumulate_input)
          add(shape_of(call), {Epilogue::gelu_slope});
      }
    });
  }
  template <class T> void add_backward_weight(const Op& op, int rows) {
    with_type(gradient_type(graph_.parameters.rows.rows[op.parameter], policy_), [&]<class G>(G) {
      LinearBackwardWeight<T, G> call{};
      call.rows = rows, call.out = op.out, call.in = op.in;
      add(shape_of(call), {Epilogue::none, Epilogue::sums_of_b});
      if (policy_.batch.accumulation == 1) return;
      call.accumulate = true;
      add(shape_of(call), {Epilogue::none});
    });
  }
  void add(ProductShape shape, std::initializer_list<Epilogue> epilogues) {
    for (const Epilogue epilogue : epilogues) {
      shape.epilogue = epilogue;
      shapes_.insert(shape);
    }
  }

  const Graph& graph_;
  const Policy& policy_;
  std::set<ProductShape> shapes_;
};

}  // namespace policy_products

/// All shapes, with every number of rows that a micro-batch can have; some that no step asks for
/// are among them.
inline std::set<ProductShape> products_of(const Graph& graph, const Policy& policy) {
  policy_products::ShapesOf shapes(graph, policy);
  for (const Program* program :
       {&graph.forward_embedding, &graph.forward_block, &graph.forward_head, &graph.backward_head,
        &graph.backward_block, &graph.backward_embedding, &graph.recompute_block})
    for (const Op& op : program->ops) shapes.add(op);
  return shapes.all();
}

}  // namespace ctrain::cuda
