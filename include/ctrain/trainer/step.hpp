/// \file  One optimizer step, top to bottom, in the order in which it happens.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/trainer/dispatch.hpp>
#include <ctrain/trainer/host_view.hpp>
#include <ctrain/trainer/memory_map.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// Where micro-batches come from: writes the next one into the buffers, false at the end of an
/// epoch.
template <class F>
concept Feed = requires(F& feed, BatchView& batch, std::uint32_t first_ordinal) {
  { feed.fill(batch, first_ordinal) } -> std::same_as<bool>;
};

/// What a run decides anew for each step; everything else is in the policy.
struct StepNumbers {
  std::uint64_t seed = 0;
  std::int64_t step = 0;  // optimizer steps done before this one
  double learning_rate = 0;
  float weight_decay = 0;
  float clip = 0;  // bound of the gradient's norm; 0: none
};

/// Sums over the sentences of a step or of an evaluation batch.
struct StepResult {
  double loss_sum = 0;
  std::int64_t sentences = 0;  // with a label
  std::int64_t correct = 0;
  std::int64_t tokens = 0;    // real ones
  std::int64_t rows = 0;      // computed ones
  std::int64_t attended = 0;  // query-key pairs inside sentences
  int micro_batches = 0;
  double gradient_norm = 0;  // of the mean gradient, before clipping

  double loss() const { return sentences > 0 ? loss_sum / double(sentences) : 0; }
  double accuracy() const { return sentences > 0 ? double(correct) / double(sentences) : 0; }
};

// the step ---------------------------------------------------------------------------------------

/// Executes P's tables on one arena with one backend.
template <HasPolicy P, Backend B> class Step {
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& graph = GraphOf<P>::graph;
  static constexpr int layers = P::policy.model.layers;
  using Map = MemoryMap<P, ArenaOf<B>>;

 public:
  Step(B& backend, Map& map)
      : backend_(backend),
        map_(map),
        dispatch_(backend, map),
        host_(backend, map.arena(), PlanOf<P>::plan.batch.end()),
        batch_(map.batch()),
        host_batch_(host_.batch_at(batch_)) {}

  /// One optimizer step over up to `batch.accumulation` micro-batches of `feed`: the gradient of
  /// the mean loss over all its sentences, clipped, then AdamW. No micro-batch left: changes
  /// nothing and returns micro_batches = 0. Throws Error, before any weight has changed, when the
  /// loss or the gradient is not finite; the text names the step and the first bad tensor.
  template <Feed F> StepResult train(F& feed, const StepNumbers& n) {
    StepResult result;
    for (int i = 0; i < policy.batch.accumulation && take(feed, std::uint32_t(result.sentences));
         ++i) {
      const MicroBatch m{.batch = batch_,
                         .seed = n.seed,
                         .step = std::uint32_t(n.step),
                         .training = true,
                         .accumulate = i > 0};
      forward(m);
      count(result);
      if (!std::isfinite(result.loss_sum)) throw_first_bad_activation(m, n.step);
      backward(m);
    }
    if (result.micro_batches == 0) return result;

    const double mean = 1.0 / double(result.sentences);  // gradients are sums over sentences so far
    result.gradient_norm = gradient_norm() * mean;
    if (!std::isfinite(result.gradient_norm)) throw_first_bad_gradient(n.step);
    const double clip = n.clip > 0 ? std::fmin(1.0, n.clip / (result.gradient_norm + 1e-6)) : 1.0;
    update(n, float(mean * clip));
    prepare_weights();
    return result;
  }

  /// Forward only, dropout off, on the next micro-batch of `feed`; false if there is none.
  template <Feed F> bool evaluate(F& feed, StepResult& result) {
    if (!take(feed, 0)) return false;
    forward({.batch = batch_, .training = false});
    count(result);
    return true;
  }

  void forward(const MicroBatch& m) {
    run(graph.forward_embedding, 0, m);
    for (int layer = 0; layer < layers; ++layer) run(graph.forward_block, layer, m);
    run(graph.forward_head, layers, m);
  }

  void backward(const MicroBatch& m) {
    run(graph.backward_head, layers, m);
    for (int layer = layers - 1; layer >= 0; --layer) {
      if constexpr (P::policy.recompute == Recompute::full) run(graph.recompute_block, layer, m);
      run(graph.backward_block, layer, m);
    }
    run(graph.backward_embedding, 0, m);
  }

  /// L2 norm of all gradients as they stand.
  double gradient_norm() {
    ExactSum* sum = map_.sum_of_squares();
    backend_.run(Clear{sum, sizeof *sum});
    each_gradient([&](int i, int, const auto* gradient) {
      using G = std::remove_cvref_t<decltype(*gradient)>;
      backend_.run(SumOfSquaresOf<G>{sum, gradient, graph.parameters.rows[i].elements()});
    });
    return std::sqrt(host_.read(sum, 1)[0].value());
  }

  /// One AdamW step of every parameter; the gradient is multiplied by `gradient_scale` first.
  void update(const StepNumbers& n, float gradient_scale) {
    each_gradient([&](int i, int layer, const auto* gradient) {
      using G = std::remove_cvref_t<decltype(*gradient)>;
      const Parameter& p = graph.parameters.rows[i];
      backend_.run(AdamWUpdateOf<G>{
          .weight = map_.parameter(State::weight, i, layer),
          .first_moment = map_.parameter(State::first_moment, i, layer),
          .second_moment = map_.parameter(State::second_moment, i, layer),
          .gradient = gradient,
          .count = p.elements(),
          .kind = policy.optimizer.kind,
          .learning_rate = float(n.learning_rate),
          .beta1 = policy.optimizer.beta1,
          .beta2 = policy.optimizer.beta2,
          .epsilon = policy.optimizer.epsilon,
          .weight_decay = decays(p, policy.optimizer.decay) ? n.weight_decay : 0.0f,
          .gradient_scale = gradient_scale,
          .t = n.step + 1});
    });
  }

  /// Refreshes the copies that products read; needed after every change of a weight.
  void prepare_weights() {
    using T = typename Map::Compute;
    if constexpr (copies_of_weights(P::policy) > 0)
      for (int layer = 0; layer < layers; ++layer)
        for (const Op& op : graph.forward_block.ops) {
          if (op.kind != OpKind::linear) continue;
          const Weight<T> w = map_.block_weight(op.parameter, layer, op.out, op.in);
          backend_.run(PrepareWeight<T>{const_cast<T*>(w.forward), const_cast<T*>(w.backward),
                                        w.master, w.out, w.in});
        }
  }

  /// Calls visit(index in the parameter table, layer) for every tensor, in the order of the flat
  /// vector.
  template <class Visit> static void each_parameter(Visit&& visit) {
    const auto segment = [&](Segment which, int layer) {
      for (int i = 0; i < graph.parameters.rows.size; ++i)
        if (graph.parameters.rows[i].segment == which) visit(i, layer);
    };
    segment(Segment::embedding, 0);
    for (int layer = 0; layer < layers; ++layer) segment(Segment::block, layer);
    segment(Segment::head, 0);
  }

  /// Calls visit(index, layer, pointer to the gradient in the type it waits in) for every tensor.
  template <class Visit> void each_gradient(Visit&& visit) {
    each_parameter([&](int i, int layer) {
      using Narrow = typename Map::BlockGradient;
      if (gradient_type(graph.parameters.rows[i], policy) == DType::fp32)
        visit(i, layer, static_cast<const float*>(map_.gradient(i, layer)));
      else
        visit(i, layer, static_cast<const Narrow*>(map_.template gradient<Narrow>(i, layer)));
    });
  }

  /// The micro-batch that was computed last, for a host to read, and what the head made of it.
  const BatchView& batch() const { return host_batch_; }
  HostValues<float> losses() { return result<float>(loss_op().outputs[0], batch_.sentences); }
  HostValues<std::int32_t> predictions() {
    return result<std::int32_t>(loss_op().outputs[1], batch_.sentences);
  }
  /// (sentences, labels); after evaluate() only, since backward reuses the memory.
  HostValues<float> logits() {
    return result<float>(loss_op().inputs[0], std::int64_t{batch_.sentences} * policy.model.labels);
  }
  HostView<B>& host() { return host_; }

 private:
  static constexpr const Op& loss_op() {
    return graph.forward_head.ops.rows[graph.forward_head.ops.size - 1];
  }

  template <class T> HostValues<T> result(Operand x, std::int64_t count) {
    return host_.read(map_.template tensor<T>(x, layers), count);
  }

  /// The feed's next micro-batch, brought to where the backend reads it.
  template <Feed F> bool take(F& feed, std::uint32_t first_ordinal) {
    if (!feed.fill(host_batch_, first_ordinal)) return false;
    host_.push(PlanOf<P>::plan.batch);
    batch_.rows = host_batch_.rows;
    batch_.sentences = host_batch_.sentences;
    return true;
  }

  void run(const Program& program, int layer, const MicroBatch& m) {
    for (const Op& op : program.ops) dispatch_.run(op, program.segment, layer, m);
  }

  /// Adds the micro-batch's losses, in the order of its sentences.
  void count(StepResult& result) {
    const HostValues<float> loss = losses();
    const HostValues<std::int32_t> predicted = predictions();
    for (int s = 0; s < host_batch_.sentences; ++s) {
      const std::int64_t length = host_batch_.lengths[s],
                         rows = host_batch_.first_row[s + 1] - host_batch_.first_row[s];
      result.tokens += length;
      result.attended += length * rows;
      if (host_batch_.labels[s] < 0) continue;
      result.loss_sum += loss[std::size_t(s)];
      result.correct += predicted[std::size_t(s)] == host_batch_.labels[s];
      ++result.sentences;
    }
    result.rows += batch_.rows;
    ++result.micro_batches;
  }

  // what went wrong ------------------------------------------------------------------------------

  template <class T> bool is_finite(const T* values, std::int64_t count) {
    for (const T& x : host_.read(values, count))
      if (!std::isfinite(float(x))) return false;
    return true;
  }

  static std::string name_of(int parameter, int layer) {
    const Parameter& p = graph.parameters.rows[parameter];
    const std::string name(p.name);
    return p.segment == Segment::block ? "bert.encoder.layer." + std::to_string(layer) + "." + name
                                       : name;
  }

  [[noreturn]] static void throw_not_finite(std::int64_t step, const std::string& tensor) {
    throw Error("step " + std::to_string(step + 1),
                "the loss is not a finite number; the first tensor with one that is not: " + tensor,
                "Lower the learning rate or resume from the last checkpoint, which is unharmed");
  }

  /// Runs the forward pass again, op by op, until an output is not finite. Dropout comes from
  /// counters, so the second pass computes what the first one did.
  [[noreturn]] void throw_first_bad_activation(const MicroBatch& m, std::int64_t step) {
    each_parameter([&](int i, int layer) {
      if (!is_finite(map_.parameter(State::weight, i, layer), graph.parameters.rows[i].elements()))
        throw_not_finite(step, "weight " + name_of(i, layer));
    });
    search(graph.forward_embedding, 0, m, step);
    for (int layer = 0; layer < layers; ++layer) search(graph.forward_block, layer, m, step);
    search(graph.forward_head, layers, m, step);
    throw_not_finite(step, "the sum of losses");
  }

  void search(const Program& program, int layer, const MicroBatch& m, std::int64_t step) {
    for (const Op& op : program.ops) {
      dispatch_.run(op, program.segment, layer, m);
      for (const Operand& y : op.outputs) {
        if (y.tensor == no_tensor || is_finite(y, layer, m)) continue;
        const std::string where = program.segment == Segment::block
                                      ? "block " + std::to_string(layer)
                                  : program.segment == Segment::head ? "the head"
                                                                     : "the embedding";
        throw_not_finite(
            step, "activation '" + std::string(graph.tensors[y.tensor].name) + "' of " + where);
      }
    }
  }

  bool is_finite(Operand y, int layer, const MicroBatch& m) {
    const Tensor& t = graph.tensors[y.tensor];
    if (t.rows == Rows::workers || t.type == DType::int32) return true;
    const std::int64_t count = std::int64_t{dispatch_.rows(y, m)} * t.cols;
    if (t.type == DType::fp32) return is_finite(map_.template tensor<float>(y, layer), count);
    return is_finite(map_.template tensor<bf16>(y, layer), count);
  }

  /// Gradients in the order in which backward made them: head, blocks from the last, embedding.
  [[noreturn]] void throw_first_bad_gradient(std::int64_t step) {
    std::string bad;
    int first = layers + 2;
    each_gradient([&](int i, int layer, const auto* gradient) {
      const Segment home = graph.parameters.rows[i].segment;
      const int made = home == Segment::head    ? 0
                       : home == Segment::block ? layers - layer
                                                : layers + 1;
      if (made >= first || is_finite(gradient, graph.parameters.rows[i].elements())) return;
      first = made;
      bad = "gradient of " + name_of(i, layer);
    });
    throw_not_finite(step, bad.empty() ? "the gradient's norm" : bad);
  }

  B& backend_;
  Map& map_;
  Dispatch<P, B> dispatch_;
  HostView<B> host_;
  BatchView batch_, host_batch_;
};

}  // namespace ctrain
