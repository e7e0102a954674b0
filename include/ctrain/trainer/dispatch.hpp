/// \file  From an op of the table to the call that a backend runs.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/comm/single.hpp>
#include <ctrain/backend/comm/transfer.hpp>
#include <ctrain/trainer/memory_map.hpp>

namespace ctrain {

/// What a micro-batch's ops need to know besides their operands.
struct MicroBatch {
  BatchView batch;
  const StepNumbers* numbers = nullptr;  // whose seed and step are a part of dropouts' identity
  bool training = true;                  // dropout acts
  bool accumulate = false;               // parameter gradients are added to what stands there
  const float* loss_scale = nullptr;     // factor of every gradient; null: 1
};

/// Builds a backend call from one op of the planned tables and runs it. Walking a table with this
/// is all that executing a step amounts to: what was planned and proved is what runs. Sizes are
/// those of one tensor rank; where its parts begin in the whole follows from its place in the grid.
/// `M` knows the addresses.
template <HasPolicy P, Backend B, class M = MemoryMap<P, ArenaOf<B>>, Communicator C = Single>
class Dispatch {
  using Map = M;
  using T = typename Map::Compute;
  using BlockGradient = typename Map::BlockGradient;
  static constexpr const auto& graph = Map::graph;
  static constexpr const auto& shape = P::policy.model;
  static constexpr int tensor_ranks = P::policy.parallel.tensor;
  static constexpr int heads = P::policy.model.heads / tensor_ranks;

 public:
  Dispatch(B& backend, Map& map, C& communicator)
      : backend_(backend),
        map_(map),
        communicator_(communicator),
        tensor_rank_(grid_of(P::policy.parallel).at(communicator.rank()).tensor) {}

  void run(const Op& op, Segment segment, int layer, const MicroBatch& m) {
    switch (op.kind) {
      case OpKind::embed:
        return embed(op, layer, m);
      case OpKind::layer_norm:
        return is_compute(op.outputs[0]) ? backend_.run(layer_norm<T>(op, layer, m))
                                         : backend_.run(layer_norm<float>(op, layer, m));
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
        return backend_.run(dropout_add(op, layer, m));
      case OpKind::cast:
        return backend_.run(CastForward<T>{at<T>(op.outputs[0], layer),
                                           at<float>(op.inputs[0], layer), rows(op.inputs[0], m),
                                           cols(op.inputs[0])});
      case OpKind::select_first:
        return backend_.run(SelectFirstForward{at<float>(op.outputs[0], layer),
                                               at<float>(op.inputs[0], layer), m.batch,
                                               shape.hidden, row_range(op.inputs[0], m)});
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
        return backend_.run(dropout_add_backward(op, layer, m));
      case OpKind::cast_backward:
        return backend_.run(CastBackward<T>{at<float>(op.outputs[0], layer),
                                            at<T>(op.inputs[0], layer), rows(op.inputs[0], m),
                                            cols(op.inputs[0]), op.accumulate_input});
      case OpKind::layer_norm_backward:
        return is_compute(op.inputs[0]) ? backend_.run(layer_norm_backward<T>(op, layer, m))
                                        : backend_.run(layer_norm_backward<float>(op, layer, m));
      case OpKind::attention_backward:
        return attention_backward(op, layer, m);
      case OpKind::select_first_backward:
        return backend_.run(SelectFirstBackward{at<float>(op.outputs[0], layer),
                                                at<float>(op.inputs[0], layer), m.batch,
                                                shape.hidden, row_range(op.outputs[0], m)});
      case OpKind::embed_backward:
        return embed_backward(op, layer, m);
      case OpKind::all_reduce:
        return exchange(Collective::all_reduce, op.inputs[0], layer, m);
      case OpKind::all_gather:
        copy(chunk(op.outputs[0], layer, m), at<std::byte>(op.inputs[0], layer), op.inputs[0], m);
        return exchange(Collective::all_gather, op.outputs[0], layer, m);
      case OpKind::reduce_scatter:
        exchange(Collective::reduce_scatter, op.inputs[0], layer, m);
        return copy(at<std::byte>(op.outputs[0], layer), chunk(op.inputs[0], layer, m),
                    op.outputs[0], m);
    }
  }

  /// One call, row by row, for two ops that follow each other, where the backend has it and the
  /// plan's places allow it; false: nothing is done.
  bool run_both(const Op& op, const Op& next, int layer, const MicroBatch& m) {
    if (op.kind == OpKind::dropout_add && next.kind == OpKind::layer_norm &&
        next.inputs[0] == op.outputs[0] && rows_may_follow(op, next, layer, m))
      return is_compute(next.outputs[0])
                 ? run_joined(DropoutAddLayerNormForward<T, T>{dropout_add(op, layer, m),
                                                               layer_norm<T>(next, layer, m)})
                 : run_joined(DropoutAddLayerNormForward<T, float>{
                       dropout_add(op, layer, m), layer_norm<float>(next, layer, m)});
    if (op.kind == OpKind::layer_norm_backward && next.kind == OpKind::dropout_add_backward &&
        next.inputs[0] == op.outputs[0] && rows_may_follow(op, next, layer, m))
      return is_compute(op.inputs[0])
                 ? run_joined(LayerNormDropoutAddBackward<T, T>{
                       layer_norm_backward<T>(op, layer, m), dropout_add_backward(next, layer, m)})
                 : run_joined(LayerNormDropoutAddBackward<T, float>{
                       layer_norm_backward<float>(op, layer, m),
                       dropout_add_backward(next, layer, m)});
    return false;
  }

  /// Rows of a tensor that this rank computes of this micro-batch.
  static int rows(Operand x, const MicroBatch& m) {
    const Tensor& t = graph.tensors[x.tensor];
    if (t.rows == Rows::sentences) return m.batch.sentences;
    return t.spread == Spread::rows ? m.batch.rows / tensor_ranks : m.batch.rows;
  }
  static int cols(Operand x) { return graph.tensors[x.tensor].cols; }

 private:
  /// nullptr: none, as a device's workspaces, which are its kernels' own.
  template <class U> U* at(Operand x, int layer) {
    return x.tensor == no_tensor ? nullptr : map_.template tensor<U>(x, layer);
  }
  float* weight(int index, int layer) { return map_.weight(index, layer); }
  float* gradient(int index, int layer) { return map_.gradient(index, layer); }

  // what tensor ranks share ----------------------------------------------------------------------

  /// Which rows of the micro-batch a tensor holds here.
  RowRange row_range(Operand x, const MicroBatch& m) const {
    const int count = rows(x, m);
    return {graph.tensors[x.tensor].spread == Spread::rows ? tensor_rank_ * count : 0, count};
  }
  /// Rows of the word table that this rank has.
  RowRange words() const { return {tensor_rank_ * map_.word_rows(), map_.word_rows()}; }
  static bytes payload(Operand x, const MicroBatch& m) {
    const Tensor& t = graph.tensors[x.tensor];
    return bytes{rows(x, m)} * t.cols * size_of(t.type);
  }
  /// This rank's rows of a tensor that has all.
  std::byte* chunk(Operand x, int layer, const MicroBatch& m) {
    return at<std::byte>(x, layer) + payload(x, m) / tensor_ranks * tensor_rank_;
  }
  void copy(std::byte* to, const std::byte* from, Operand rows_of, const MicroBatch& m) {
    backend_.run(Copy{to, from, payload(rows_of, m)});
  }
  /// Tensor ranks exchange what they have of x, and go on when all have it.
  void exchange(Collective collective, Operand x, int layer, const MicroBatch& m) {
    const Tensor& t = graph.tensors[x.tensor];
    // A backend with a stream may hold a product back for what follows it: now it goes.
    if constexpr (requires { backend_.stream(); }) backend_.stream();
    communicator_.wait(communicator_.start({.collective = collective,
                                            .group = Group::tensor,
                                            .data = at<std::byte>(x, layer),
                                            .size = payload(x, m),
                                            .element = t.type,
                                            .name = {.what = t.name.data()}}));
  }

  static bool is_compute(Operand x) {
    return graph.tensors[x.tensor].type == P::policy.compute_type() &&
           P::policy.compute_type() != DType::fp32;
  }

  /// Rows of the operand know their tokens wherever they begin.
  Dropout dropout(const Op& op, int layer, const MicroBatch& m) const {
    const bool attention = op.site == DropoutSite::attention_probability;
    const float probability = attention ? shape.attention_dropout : shape.hidden_dropout;
    Dropout d;
    d.numbers = m.numbers;
    d.layer_site = std::uint32_t(layer) * 8 + std::uint32_t(op.site);
    d.threshold = m.training ? dropout_threshold(probability) : 0;
    d.row_keys = m.batch.row_keys + row_range(op.inputs[0], m).first;
    d.first_row = op.site == DropoutSite::pooled ? m.batch.first_row : nullptr;
    return d;
  }

  void embed(const Op& op, int layer, const MicroBatch& m) {
    const bool adds_places = tensor_rank_ == 0;
    backend_.run(EmbedForward{at<float>(op.outputs[0], layer), weight(op.parameter, 0),
                              adds_places ? weight(op.parameter + 1, 0) : nullptr,
                              adds_places ? weight(op.parameter + 2, 0) : nullptr, m.batch,
                              shape.hidden, words()});
  }
  void embed_backward(const Op& op, int layer, const MicroBatch& m) {
    backend_.run(EmbedBackward{gradient(op.parameter, 0), gradient(op.parameter + 1, 0),
                               gradient(op.parameter + 2, 0), at<float>(op.inputs[0], layer),
                               m.batch, map_.word_rows(), shape.positions, shape.token_types,
                               shape.hidden, m.accumulate, words().first});
  }
  /// Whether a row of what `next` writes may be written once that row of what `op` reads has been
  /// read: the plan lets them share places.
  bool rows_may_follow(const Op& op, const Op& next, int layer, const MicroBatch& m) {
    for (const Operand read : op.inputs)
      for (const Operand written : next.outputs) {
        if (read.tensor == no_tensor || written.tensor == no_tensor) continue;
        const std::byte *const from = at<std::byte>(read, layer), *const to =
                                                                      at<std::byte>(written, layer);
        const bytes size = payload(read, m), written_size = payload(written, m);
        const bool apart = from + size <= to || to + written_size <= from;
        if (!apart && (from != to || size != written_size)) return false;
      }
    return true;
  }
  template <class Call> bool run_joined(const Call& call) {
    if constexpr (JoinsCalls<B>) backend_.run(call);
    return JoinsCalls<B>;
  }
  DropoutAddForward<T> dropout_add(const Op& op, int layer, const MicroBatch& m) {
    return {at<float>(op.outputs[0], layer), at<T>(op.inputs[0], layer),
            at<float>(op.inputs[1], layer),  dropout(op, layer, m),
            rows(op.inputs[0], m),           cols(op.inputs[0])};
  }
  DropoutAddBackward<T> dropout_add_backward(const Op& op, int layer, const MicroBatch& m) {
    return {at<T>(op.outputs[0], layer), at<float>(op.inputs[0], layer), dropout(op, layer, m),
            rows(op.inputs[0], m), cols(op.inputs[0])};
  }
  template <class Y> LayerNormForward<Y> layer_norm(const Op& op, int layer, const MicroBatch& m) {
    return {at<Y>(op.outputs[0], layer),     at<float>(op.outputs[1], layer),
            at<float>(op.outputs[2], layer), at<float>(op.inputs[0], layer),
            weight(op.parameter, layer),     weight(op.bias, layer),
            rows(op.inputs[0], m),           cols(op.inputs[0]),
            shape.layer_norm_epsilon};
  }
  template <class Y>
  LayerNormBackward<Y> layer_norm_backward(const Op& op, int layer, const MicroBatch& m) {
    return {at<float>(op.outputs[0], layer),
            gradient(op.parameter, layer),
            gradient(op.bias, layer),
            at<Y>(op.inputs[0], layer),
            at<float>(op.inputs[1], layer),
            at<float>(op.inputs[2], layer),
            at<float>(op.inputs[3], layer),
            weight(op.parameter, layer),
            rows(op.inputs[0], m),
            cols(op.inputs[0]),
            op.accumulate_input,
            m.accumulate};
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
  /// Where ranks leave summands of a product, one of them adds the bias.
  template <class U> void linear(const Op& op, Segment segment, int layer, const MicroBatch& m) {
    const bool sums = graph.parameters.rows[op.parameter].split == SplitAxis::cols;
    backend_.run(LinearForward<U>{at<U>(op.outputs[0], layer), at<U>(op.inputs[0], layer),
                                  operand<U>(op, segment, layer),
                                  sums && tensor_rank_ > 0 ? nullptr : weight(op.bias, layer),
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
        m.batch, dropout(op, layer, m), at<float>(op.outputs[2], layer), heads, shape.head_size(),
        P::policy.batch.length, P::policy.device.workers, tensor_rank_ * heads});
  }
  void attention_backward(const Op& op, int layer, const MicroBatch& m) {
    backend_.run(AttentionBackward<T>{
        at<T>(op.outputs[0], layer), at<T>(op.inputs[0], layer), at<T>(op.inputs[1], layer),
        at<T>(op.inputs[2], layer), at<float>(op.inputs[3], layer), m.batch, dropout(op, layer, m),
        at<float>(op.outputs[1], layer), heads, shape.head_size(), P::policy.batch.length,
        P::policy.device.workers, tensor_rank_ * heads});
  }

  B& backend_;
  Map& map_;
  C& communicator_;
  int tensor_rank_ = 0;
};

}  // namespace ctrain
