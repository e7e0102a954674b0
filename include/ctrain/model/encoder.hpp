/// \file  The forward tables of MegatronBERT (pre-LN) and BERT (post-LN) with a classification head.   floor 2: model
#pragma once

#include <ctrain/model/graph.hpp>
#include <ctrain/policy/policy.hpp>

#include <string_view>

namespace ctrain {

/// Writes forward ops. Each method appends one op and returns its output, so that a model reads
/// like the equations it comes from.
struct ForwardWriter {
  Graph& graph;
  Program& program;
  const Policy& policy;

  constexpr int tensor(std::string_view name, DType type, Rows rows, int cols) {
    return graph.tensors.add({name, type, rows, cols});
  }
  constexpr int parameter(std::string_view name) const {
    return graph.parameters.find(name, program.segment);
  }
  constexpr const Tensor& of(Operand x) const { return graph.tensors.rows[x.tensor]; }

  /// x = word + position + token type; see EmbedForward.
  constexpr Operand embed(Operand out) {
    Op op{.kind = OpKind::embed};
    op.outputs[0] = out;
    op.parameter = parameter("bert.embeddings.word_embeddings.weight");
    program.ops.add(op);
    return out;
  }
  /// y of type `type`; mean and rstd are kept for backward.
  constexpr Operand layer_norm(std::string_view name, Operand x, std::string_view gain,
                               std::string_view bias, DType type, Operand out = {}) {
    const Rows rows = of(x).rows;
    Op op{.kind = OpKind::layer_norm};
    op.inputs[0] = x;
    op.outputs[0] = out.tensor == no_tensor ? Operand{tensor(name, type, rows, of(x).cols)} : out;
    op.outputs[1] = {tensor("norm mean", DType::fp32, rows, 1)};
    op.outputs[2] = {tensor("norm rstd", DType::fp32, rows, 1)};
    op.parameter = parameter(gain);
    op.bias = parameter(bias);
    program.ops.add(op);
    return op.outputs[0];
  }
  /// z = x W^T + b.
  constexpr Operand linear(std::string_view name, Operand x, std::string_view weight,
                           std::string_view bias, int out) {
    Op op{.kind = OpKind::linear};
    op.inputs[0] = x;
    op.outputs[0] = {tensor(name, of(x).type, of(x).rows, out)};
    op.parameter = parameter(weight);
    op.bias = parameter(bias);
    op.in = of(x).cols;
    op.out = out;
    program.ops.add(op);
    return op.outputs[0];
  }
  constexpr Operand attention(std::string_view name, Operand qkv, int workspace) {
    Op op{.kind = OpKind::attention, .site = DropoutSite::attention_probability};
    op.inputs[0] = qkv;
    op.outputs[0] = {tensor(name, of(qkv).type, Rows::tokens, of(qkv).cols / 3)};
    op.outputs[1] = {
        tensor("attention log-sum-exp", DType::fp32, Rows::tokens, policy.model.heads)};
    op.outputs[2] = {workspace};
    program.ops.add(op);
    return op.outputs[0];
  }
  constexpr Operand gelu(std::string_view name, Operand x) {
    return unary(OpKind::gelu, x, {tensor(name, of(x).type, of(x).rows, of(x).cols)});
  }
  constexpr Operand tanh(Operand x) { return unary(OpKind::tanh, x, x); }
  constexpr Operand dropout(Operand x, DropoutSite site, Operand out) {
    return unary(OpKind::dropout, x, out, site);
  }
  /// sum = residual + dropout(branch).
  constexpr Operand dropout_add(Operand branch, Operand residual, DropoutSite site, Operand out) {
    Op op{.kind = OpKind::dropout_add, .site = site};
    op.inputs[0] = branch;
    op.inputs[1] = residual;
    op.outputs[0] = out;
    program.ops.add(op);
    return out;
  }
  /// The stream as a matrix operand: itself in fp32, else a narrowed copy.
  constexpr Operand cast(std::string_view name, Operand x) {
    if (policy.compute_type() == DType::fp32) return x;
    return unary(OpKind::cast, x, {tensor(name, policy.compute_type(), of(x).rows, of(x).cols)});
  }
  constexpr Operand select_first(std::string_view name, Operand x) {
    return unary(OpKind::select_first, x, {tensor(name, DType::fp32, Rows::sentences, of(x).cols)});
  }
  /// Per-sentence losses and predictions.
  constexpr void cross_entropy(Operand logits) {
    Op op{.kind = OpKind::cross_entropy};
    op.inputs[0] = logits;
    op.outputs[0] = {tensor("losses", DType::fp32, Rows::sentences, 1)};
    op.outputs[1] = {tensor("predictions", DType::int32, Rows::sentences, 1)};
    program.ops.add(op);
  }

 private:
  constexpr Operand unary(OpKind kind, Operand x, Operand out, DropoutSite site = {}) {
    Op op{.kind = kind, .site = site};
    op.inputs[0] = x;
    op.outputs[0] = out;
    program.ops.add(op);
    return out;
  }
};

namespace encoder {

/// Hugging Face BertEmbeddings and MegatronBertEmbeddings: the sum, in BERT a norm, dropout.
constexpr void embedding(Graph& g, const Policy& p) {
  ForwardWriter w{g, g.forward_embedding, p};
  const Operand stream{g.stream};
  if (p.model.norm == NormPlacement::pre_layer_norm) {
    w.embed(stream);
  } else {
    const Operand sum =
        w.embed({w.tensor("embedding sum", DType::fp32, Rows::tokens, p.model.hidden)});
    w.layer_norm("stream", sum, "bert.embeddings.LayerNorm.weight",
                 "bert.embeddings.LayerNorm.bias", DType::fp32, stream);
  }
  w.dropout(stream, DropoutSite::embedding, stream);
}

/// One block. MegatronBERT: x + Attention(LN x), then x + FFN(LN x). BERT: LN(x + Attention(x)),
/// then LN(x + FFN(x)) (Devlin et al., arXiv 1810.04805; Shoeybi et al., arXiv 1909.08053).
constexpr void block(Graph& g, const Policy& p) {
  ForwardWriter w{g, g.forward_block, p};
  const bool pre = p.model.norm == NormPlacement::pre_layer_norm;
  const int h = p.model.hidden, f = p.model.feed_forward;
  const DType compute = p.compute_type();
  const int workspace = p.device.kind == DeviceKind::host
                            ? w.tensor("attention workspace", DType::fp32, Rows::workers,
                                       2 * p.batch.length * p.batch.length)
                            : no_tensor;
  const Operand x{g.stream, 0}, next{g.stream, 1};

  const Operand a =
      pre ? w.layer_norm("attention input", x, "attention.ln.weight", "attention.ln.bias", compute)
          : w.cast("attention input", x);
  const Operand qkv = w.linear("query key value", a, "attention.self.query.weight",
                               "attention.self.query.bias", 3 * h);
  const Operand context = w.attention("attention context", qkv, workspace);
  const Operand attended = w.linear("attention output", context, "attention.output.dense.weight",
                                    "attention.output.dense.bias", h);
  Operand middle = w.dropout_add(attended, x, DropoutSite::attention_output,
                                 {w.tensor("attention sum", DType::fp32, Rows::tokens, h)});
  if (!pre)
    middle = w.layer_norm("attention stream", middle, "attention.output.LayerNorm.weight",
                          "attention.output.LayerNorm.bias", DType::fp32);

  const Operand b =
      pre ? w.layer_norm("feed-forward input", middle, "ln.weight", "ln.bias", compute)
          : w.cast("feed-forward input", middle);
  const Operand u =
      w.linear("feed-forward hidden", b, "intermediate.dense.weight", "intermediate.dense.bias", f);
  const Operand v = w.gelu("feed-forward activation", u);
  const Operand fed =
      w.linear("feed-forward output", v, "output.dense.weight", "output.dense.bias", h);
  if (pre) {
    w.dropout_add(fed, middle, DropoutSite::feed_forward_output, next);
  } else {
    const Operand sum = w.dropout_add(fed, middle, DropoutSite::feed_forward_output,
                                      {w.tensor("feed-forward sum", DType::fp32, Rows::tokens, h)});
    w.layer_norm("stream", sum, "output.LayerNorm.weight", "output.LayerNorm.bias", DType::fp32,
                 next);
  }
}

/// First token of each sentence, (final norm,) pooler, dropout, classifier, loss; all in fp32. The
/// final norm acts on the rows that are read; the others are never used.
constexpr void head(Graph& g, const Policy& p) {
  ForwardWriter w{g, g.forward_head, p};
  Operand first = w.select_first("first tokens", {g.stream});
  if (p.model.norm == NormPlacement::pre_layer_norm)
    first = w.layer_norm("final norm", first, "bert.encoder.ln.weight", "bert.encoder.ln.bias",
                         DType::fp32);
  const Operand pooled = w.tanh(w.linear("pooled", first, "bert.pooler.dense.weight",
                                         "bert.pooler.dense.bias", p.model.hidden));
  const Operand kept =
      w.dropout(pooled, DropoutSite::pooled,
                {w.tensor("pooled after dropout", DType::fp32, Rows::sentences, p.model.hidden)});
  w.cross_entropy(w.linear("logits", kept, "classifier.weight", "classifier.bias", p.model.labels));
}

}  // namespace encoder

/// The forward half of a step.
constexpr Graph forward_graph(const Policy& p) {
  Graph g;
  g.parameters = parameters_of(p.model);
  g.forward_embedding.segment = Segment::embedding;
  g.forward_block.segment = Segment::block;
  g.forward_head.segment = Segment::head;
  g.stream = g.tensors.add(
      {.name = "stream", .rows = Rows::tokens, .cols = p.model.hidden, .is_stream = true});
  encoder::embedding(g, p);
  encoder::block(g, p);
  encoder::head(g, p);
  return g;
}

}  // namespace ctrain
