/// \file  From an op of the table to the call that a backend runs.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/trainer/memory_map.hpp>

namespace ctrain {

/// What a micro-batch's ops need to know besides their operands.
struct MicroBatch {
  BatchView batch;
  std::uint64_t seed = 0;
  std::uint32_t step = 0;   // optimizer step, a part of every dropout's identity
  bool training = true;     // dropout acts
  bool accumulate = false;  // parameter gradients are added to what stands there
  float loss_scale = 1;     // factor of every gradient
};

/// Builds a backend call from one op of the planned tables and runs it. Walking a table with this
/// is all that executing a step amounts to: what was planned and proved is what runs. `M` knows the
/// addresses.
template <HasPolicy P, Backend B, class M = MemoryMap<P, ArenaOf<B>>> class Dispatch {
  using Map = M;
  using T = typename Map::Compute;
  using BlockGradient = typename Map::BlockGradient;
  static constexpr const auto& graph = Map::graph;
  static constexpr const auto& shape = P::policy.model;

 public:
  Dispatch(B& backend, Map& map) : backend_(backend), map_(map) {}

  void run(const Op& op, Segment segment, int layer, const MicroBatch& m) {
    switch (op.kind) {
      case OpKind::embed:
        return embed(op, layer, m);
      case OpKind::layer_norm:
        return is_compute(op.outputs[0]) ? layer_norm<T>(op, layer, m)
                                         : layer_norm<float>(op, layer, m);
      case OpKind::linear:
        return is_compute(op.inputs[0]) ? linear<T>(op, segment, layer, m)
                                        : linear<float>(op, segment, layer, m);
      case OpKind::attention:
        return attention(op, layer, m);
      case OpKind::gelu:
        return backend_.run(GeluForward<T>{at<T>(op.outputs[0], layer), at<T>(op.inputs[0], layer),
                                           rows(op.inputs[0], m), cols(op.inputs[0]),
                                           shape.activation});
      case OpKind::dropout:
        return backend_.run(DropoutForward{at<float>(op.outputs[0], layer),
                                           at<float>(op.inputs[0], layer), dropout(op, layer, m),
                                           rows(op.inputs[0], m), cols(op.inputs[0])});
      case OpKind::dropout_add:
        return backend_.run(
            DropoutAddForward<T>{at<float>(op.outputs[0], layer), at<T>(op.inputs[0], layer),
                                 at<float>(op.inputs[1], layer), dropout(op, layer, m),
                                 rows(op.inputs[0], m), cols(op.inputs[0])});
      case OpKind::cast:
        return backend_.run(CastForward<T>{at<T>(op.outputs[0], layer),
                                           at<float>(op.inputs[0], layer), rows(op.inputs[0], m),
                                           cols(op.inputs[0])});
      case OpKind::select_first:
        return backend_.run(SelectFirstForward{at<float>(op.outputs[0], layer),
                                               at<float>(op.inputs[0], layer), m.batch,
                                               shape.hidden});
      case OpKind::tanh:
        return backend_.run(TanhForward{at<float>(op.outputs[0], layer),
                                        at<float>(op.inputs[0], layer), rows(op.inputs[0], m),
                                        cols(op.inputs[0])});
      case OpKind::cross_entropy:
        return backend_.run(CrossEntropyForward{
            at<float>(op.outputs[0], layer), at<std::int32_t>(op.outputs[1], layer),
            at<float>(op.inputs[0], layer), m.batch, shape.labels});
      case OpKind::cross_entropy_backward:
        return backend_.run(CrossEntropyBackward{at<float>(op.outputs[0], layer),
                                                 at<float>(op.inputs[0], layer), m.batch,
                                                 shape.labels, m.loss_scale});
      case OpKind::linear_backward_weight:
        return is_compute(op.inputs[0]) ? linear_backward_weight<T, BlockGradient>(op, layer, m)
                                        : linear_backward_weight<float, float>(op, layer, m);
      case OpKind::linear_backward_input:
        return linear_backward_input(op, segment, layer, m);
      case OpKind::tanh_backward:
        return backend_.run(TanhBackward{
            at<float>(op.outputs[0], layer), at<float>(op.inputs[0], layer),
            at<float>(op.inputs[1], layer), rows(op.inputs[0], m), cols(op.inputs[0])});
      case OpKind::gelu_backward:
        return backend_.run(GeluBackward<T>{at<T>(op.outputs[0], layer), at<T>(op.inputs[0], layer),
                                            at<T>(op.inputs[1], layer), rows(op.inputs[0], m),
                                            cols(op.inputs[0]), shape.activation});
      case OpKind::dropout_backward:
        return backend_.run(DropoutForward{at<float>(op.outputs[0], layer),
                                           at<float>(op.inputs[0], layer), dropout(op, layer, m),
                                           rows(op.inputs[0], m), cols(op.inputs[0])});
      case OpKind::dropout_add_backward:
        return backend_.run(DropoutAddBackward<T>{
            at<T>(op.outputs[0], layer), at<float>(op.inputs[0], layer), dropout(op, layer, m),
            rows(op.inputs[0], m), cols(op.inputs[0])});
      case OpKind::cast_backward:
        return backend_.run(CastBackward<T>{at<float>(op.outputs[0], layer),
                                            at<T>(op.inputs[0], layer), rows(op.inputs[0], m),
                                            cols(op.inputs[0]), op.accumulate_input});
      case OpKind::layer_norm_backward:
        return is_compute(op.inputs[0]) ? layer_norm_backward<T>(op, layer, m)
                                        : layer_norm_backward<float>(op, layer, m);
      case OpKind::attention_backward:
        return attention_backward(op, layer, m);
      case OpKind::select_first_backward:
        return backend_.run(SelectFirstBackward{at<float>(op.outputs[0], layer),
                                                at<float>(op.inputs[0], layer), m.batch,
                                                shape.hidden});
      case OpKind::embed_backward:
        return embed_backward(op, layer, m);
    }
  }

  /// Rows of a tensor that this micro-batch computes.
  static int rows(Operand x, const MicroBatch& m) {
    return graph.tensors[x.tensor].rows == Rows::sentences ? m.batch.sentences : m.batch.rows;
  }
  static int cols(Operand x) { return graph.tensors[x.tensor].cols; }

 private:
  template <class U> U* at(Operand x, int layer) { return map_.template tensor<U>(x, layer); }
  float* weight(int index, int layer) { return map_.weight(index, layer); }
  float* gradient(int index, int layer) { return map_.gradient(index, layer); }

  static bool is_compute(Operand x) {
    return graph.tensors[x.tensor].type == P::policy.compute_type() &&
           P::policy.compute_type() != DType::fp32;
  }

  static Dropout dropout(const Op& op, int layer, const MicroBatch& m) {
    const bool attention = op.site == DropoutSite::attention_probability;
    const float probability = attention ? shape.attention_dropout : shape.hidden_dropout;
    Dropout d;
    d.key = {m.seed, m.step, std::uint32_t(layer) * 8 + std::uint32_t(op.site)};
    d.threshold = m.training ? dropout_threshold(probability) : 0;
    d.row_keys = m.batch.row_keys;
    d.first_row = op.site == DropoutSite::pooled ? m.batch.first_row : nullptr;
    return d;
  }

  void embed(const Op& op, int layer, const MicroBatch& m) {
    backend_.run(EmbedForward{at<float>(op.outputs[0], layer), weight(op.parameter, 0),
                              weight(op.parameter + 1, 0), weight(op.parameter + 2, 0), m.batch,
                              shape.hidden});
  }
  void embed_backward(const Op& op, int layer, const MicroBatch& m) {
    backend_.run(EmbedBackward{gradient(op.parameter, 0), gradient(op.parameter + 1, 0),
                               gradient(op.parameter + 2, 0), at<float>(op.inputs[0], layer),
                               m.batch, map_.word_rows(), shape.positions, shape.token_types,
                               shape.hidden, m.accumulate});
  }
  template <class Y> void layer_norm(const Op& op, int layer, const MicroBatch& m) {
    backend_.run(LayerNormForward<Y>{at<Y>(op.outputs[0], layer), at<float>(op.outputs[1], layer),
                                     at<float>(op.outputs[2], layer),
                                     at<float>(op.inputs[0], layer), weight(op.parameter, layer),
                                     weight(op.bias, layer), rows(op.inputs[0], m),
                                     cols(op.inputs[0]), shape.layer_norm_epsilon});
  }
  template <class Y> void layer_norm_backward(const Op& op, int layer, const MicroBatch& m) {
    backend_.run(LayerNormBackward<Y>{
        at<float>(op.outputs[0], layer), gradient(op.parameter, layer), gradient(op.bias, layer),
        at<Y>(op.inputs[0], layer), at<float>(op.inputs[1], layer), at<float>(op.inputs[2], layer),
        at<float>(op.inputs[3], layer), weight(op.parameter, layer), rows(op.inputs[0], m),
        cols(op.inputs[0]), op.accumulate_input, m.accumulate});
  }
  /// The head's matrices are few and stay in fp32; a block's have copies in the compute type.
  template <class U> Weight<U> operand(const Op& op, Segment segment, int layer) {
    if constexpr (std::is_same_v<U, T>)
      if (segment == Segment::block) return map_.block_weight(op.parameter, layer, op.out, op.in);
    Weight<U> w;
    w.master = weight(op.parameter, layer);
    w.out = op.out;
    w.in = op.in;
    return w;
  }
  /// Products take whole shapes: the head's rows, one a sentence, are filled up with zeros.
  template <class U> int filled_rows(Operand x, int layer, const MicroBatch& m) {
    if (graph.tensors[x.tensor].rows == Rows::tokens) return m.batch.rows;
    const int rows = m.batch.sentences, all = P::policy.batch.filled_sentences(rows);
    const std::int64_t width = cols(x);
    backend_.run(
        Clear{at<U>(x, layer) + rows * width, (all - rows) * width * std::int64_t(sizeof(U))});
    return all;
  }
  template <class U> void linear(const Op& op, Segment segment, int layer, const MicroBatch& m) {
    backend_.run(LinearForward<U>{at<U>(op.outputs[0], layer), at<U>(op.inputs[0], layer),
                                  operand<U>(op, segment, layer), weight(op.bias, layer),
                                  filled_rows<U>(op.inputs[0], layer, m)});
  }
  void linear_backward_input(const Op& op, Segment segment, int layer, const MicroBatch& m) {
    if (!is_compute(op.inputs[0]))
      return linear_backward_input_as<float, float>(op, segment, layer, m);
    if (is_compute(op.outputs[0])) return linear_backward_input_as<T, T>(op, segment, layer, m);
    linear_backward_input_as<T, float>(op, segment, layer, m);
  }
  template <class U, class DX>
  void linear_backward_input_as(const Op& op, Segment segment, int layer, const MicroBatch& m) {
    backend_.run(LinearBackwardInput<U, DX>{
        at<DX>(op.outputs[0], layer), at<U>(op.inputs[0], layer), operand<U>(op, segment, layer),
        filled_rows<U>(op.inputs[0], layer, m), op.accumulate_input});
  }
  template <class U, class G>
  void linear_backward_weight(const Op& op, int layer, const MicroBatch& m) {
    backend_.run(LinearBackwardWeight<U, G>{
        map_.template gradient<G>(op.parameter, layer), gradient(op.bias, layer),
        at<U>(op.inputs[0], layer), at<U>(op.inputs[1], layer),
        filled_rows<U>(op.inputs[0], layer, m), op.out, op.in, m.accumulate});
  }
  void attention(const Op& op, int layer, const MicroBatch& m) {
    backend_.run(AttentionForward<T>{
        at<T>(op.outputs[0], layer), at<float>(op.outputs[1], layer), at<T>(op.inputs[0], layer),
        m.batch, dropout(op, layer, m), at<float>(op.outputs[2], layer), shape.heads,
        shape.head_size(), P::policy.batch.length, P::policy.device.workers});
  }
  void attention_backward(const Op& op, int layer, const MicroBatch& m) {
    backend_.run(AttentionBackward<T>{
        at<T>(op.outputs[0], layer), at<T>(op.inputs[0], layer), at<T>(op.inputs[1], layer),
        at<T>(op.inputs[2], layer), at<float>(op.inputs[3], layer), m.batch, dropout(op, layer, m),
        at<float>(op.outputs[1], layer), shape.heads, shape.head_size(), P::policy.batch.length,
        P::policy.device.workers});
  }

  B& backend_;
  Map& map_;
};

}  // namespace ctrain
