/// \file  Which tensor is the first that is not finite, once a loss or a norm was not.   floor 6: trainer
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/trainer/dispatch.hpp>
#include <ctrain/trainer/host_view.hpp>
#include <ctrain/trainer/memory_map.hpp>
#include <ctrain/trainer/state_dict.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>

namespace ctrain {

/// Looks through what a rank holds. Names are for people: "activation 'query key value' of block
/// 3".
template <HasPolicy P, Backend B, Communicator C = Single> class Faults {
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& graph = GraphOf<P>::graph;
  static constexpr int layers = P::policy.model.layers;
  using Map = MemoryMap<P, ArenaOf<B>>;

 public:
  Faults(Dispatch<P, B, Map, C>& dispatch, Map& map, HostView<B>& host)
      : dispatch_(dispatch), map_(map), host_(host) {}

  [[noreturn]] static void raise(std::int64_t step, const std::string& what) {
    throw Error("step " + std::to_string(step + 1),
                "the loss is not a finite number; the first tensor with one that is not: " + what,
                "Lower the learning rate or resume from the last checkpoint, which is unharmed");
  }

  /// Runs the forward pass of a model that is all here again, op by op, until an output is not
  /// finite. Dropout comes from counters, so the second pass computes what the first one did.
  std::string first_bad_activation(const MicroBatch& m) {
    std::string bad = first_bad_weight();
    if (bad.empty()) bad = search(graph.forward_embedding, 0, m);
    for (int layer = 0; layer < layers && bad.empty(); ++layer)
      bad = search(graph.forward_block, layer, m);
    if (bad.empty()) bad = search(graph.forward_head, layers, m);
    return bad.empty() ? "the sum of losses" : bad;
  }

  /// Gradients in the order in which backward made them: head, blocks from the last, embedding.
  std::string first_bad_gradient() {
    std::string bad;
    for (int b = 0; b < map_.layout().buckets.size; ++b) {
      int first = -1;  // units rise within a bucket, and backward goes down
      map_.each_run(b, map_.split.zero.stage >= 1, [&](const Run& run) {
        const Parameter& p = graph.parameters.rows[run.parameter];
        const bool wide = gradient_type(p, policy) == DType::fp32;
        const bool good = wide ? is_finite(map_.template gradient<float>(run), run.count)
                               : is_finite(narrow_gradient(run), run.count);
        if (good || (run.layer <= first && p.segment == Segment::block)) return;
        first = run.layer;
        bad = "gradient of " + name_of(run);
      });
      if (!bad.empty()) return bad;
    }
    return "the gradient's norm";
  }

 private:
  static std::string name_of(const Run& run) {
    return tensor_name(graph.parameters.rows[run.parameter], run.layer);
  }
  const auto* narrow_gradient(const Run& run) {
    return map_.template gradient<typename Map::BlockGradient>(run);
  }

  template <class T> bool is_finite(const T* values, std::int64_t count) {
    for (const T& x : host_.read(values, count))
      if (!std::isfinite(float(x))) return false;
    return true;
  }
  bool is_finite(Operand y, int layer, const MicroBatch& m) {
    const Tensor& t = graph.tensors[y.tensor];
    if (t.rows == Rows::workers || t.type == DType::int32) return true;
    const std::int64_t count = std::int64_t{dispatch_.rows(y, m)} * t.cols;
    if (t.type == DType::fp32) return is_finite(map_.template tensor<float>(y, layer), count);
    return is_finite(map_.template tensor<typename Map::Compute>(y, layer), count);
  }

  std::string first_bad_weight() {
    std::string bad;
    for (int b = map_.layout().buckets.size - 1; b >= 0 && bad.empty(); --b)
      map_.each_run(b, false, [&](const Run& run) {
        if (bad.empty() && !is_finite(map_.at(State::weight, run), run.count))
          bad = "weight " + name_of(run);
      });
    return bad;
  }

  std::string search(const Program& program, int layer, const MicroBatch& m) {
    for (const Op& op : program.ops) {
      dispatch_.run(op, program.segment, layer, m);
      for (const Operand& y : op.outputs) {
        if (y.tensor == no_tensor || is_finite(y, layer, m)) continue;
        const std::string where = program.segment == Segment::block
                                      ? "block " + std::to_string(layer)
                                  : program.segment == Segment::head ? "the head"
                                                                     : "the embedding";
        return "activation '" + std::string(graph.tensors[y.tensor].name) + "' of " + where;
      }
    }
    return "";
  }

  Dispatch<P, B, Map, C>& dispatch_;
  Map& map_;
  HostView<B>& host_;
};

}  // namespace ctrain
