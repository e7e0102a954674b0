/// \file  The tables of a step as text, one op a line.   floor 2: model
#pragma once

#include <ctrain/model/graph.hpp>

#include <string>
#include <string_view>

namespace ctrain {

/// The enumerator's own name.
constexpr std::string_view name_of(OpKind kind) {
  constexpr std::string_view names[] = {"embed",
                                        "layer_norm",
                                        "linear",
                                        "attention",
                                        "gelu",
                                        "dropout",
                                        "dropout_add",
                                        "cast",
                                        "select_first",
                                        "tanh",
                                        "cross_entropy",
                                        "all_reduce",
                                        "all_gather",
                                        "reduce_scatter",
                                        "embed_backward",
                                        "layer_norm_backward",
                                        "linear_backward_input",
                                        "linear_backward_weight",
                                        "attention_backward",
                                        "gelu_backward",
                                        "dropout_backward",
                                        "dropout_add_backward",
                                        "cast_backward",
                                        "select_first_backward",
                                        "tanh_backward",
                                        "cross_entropy_backward"};
  return names[int(kind)];
}

/// "d_" before a gradient, "next" before the stream that a block hands on, and the how-manieth of
/// its name a tensor is, where there are several.
inline std::string name_of(const Graph& g, Operand x) {
  const Tensor& t = g.tensors[x.tensor];
  int before = 0;
  for (int i = 0; i < x.tensor; ++i)
    before += g.tensors[i].name == t.name && g.tensors[i].is_gradient == t.is_gradient;
  std::string name = t.is_gradient ? "d_" : x.shift == 1 ? "next " : "";
  name += t.name;
  if (before > 0) name += " #" + std::to_string(before + 1);
  return name;
}

/// "outputs <- op(inputs) parameters". An output that is also an input is changed in place; "+="
/// says that the op adds to its first output.
inline std::string render(const Graph& g, const Op& op) {
  const auto list = [&](const auto& operands) {
    std::string text;
    for (const Operand& x : operands)
      if (x.tensor != no_tensor) text += (text.empty() ? "" : ", ") + name_of(g, x);
    return text;
  };
  std::string line = list(op.outputs);
  if (!line.empty()) line += op.accumulate_input ? " += " : " <- ";
  line += std::string(name_of(op.kind)) + "(" + list(op.inputs) + ")";
  for (const int parameter : {op.parameter, op.bias})
    if (parameter >= 0) line += " " + std::string(g.parameters.rows[parameter].name);
  if (op.out > 0) line += " " + std::to_string(op.in) + " -> " + std::to_string(op.out);
  return line;
}

inline std::string render(const Graph& g, const Program& program, std::string_view title) {
  std::string text = std::string(title) + "\n";
  for (const Op& op : program.ops) text += "  " + render(g, op) + "\n";
  return text;
}

/// Every program of a step, in the order in which it runs. What a block computes again stands
/// between its passes, whether or not the policy recomputes.
inline std::string render(const Graph& g) {
  return render(g, g.forward_embedding, "embedding forward") +
         render(g, g.forward_block, "block forward") + render(g, g.forward_head, "head forward") +
         render(g, g.backward_head, "head backward") +
         render(g, g.recompute_block, "block recomputed") +
         render(g, g.backward_block, "block backward") +
         render(g, g.backward_embedding, "embedding backward");
}

}  // namespace ctrain
