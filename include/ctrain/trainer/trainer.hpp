/// \file  Trainer<P>: what a policy becomes when it is valid and fits.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/default.hpp>
#include <ctrain/memory/check.hpp>
#include <ctrain/policy/rules.hpp>
#include <ctrain/trainer/initialize.hpp>
#include <ctrain/trainer/memory_map.hpp>
#include <ctrain/trainer/one_rank.hpp>
#include <ctrain/trainer/step.hpp>

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace ctrain {

/// A tensor of the state dict with what training keeps for it.
struct NamedTensor {
  std::string name;  // Hugging Face's
  std::vector<std::int64_t> shape;
  float* weight = nullptr;
  const void* gradient = nullptr;  // floats, or bf16 where the policy keeps gradients so
  DType gradient_type = DType::fp32;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  std::int64_t count = 0;
  int parameter = 0;  // row of the parameter table

  float gradient_at(std::int64_t i) const {
    return gradient_type == DType::bf16 ? float(static_cast<const bf16*>(gradient)[i])
                                        : static_cast<const float*>(gradient)[i];
  }
};

/// Checks the rules, then the plan, then what a trainer asks on top.
template <class P> struct Verified : Check<P> {
  static_assert(sizeof(rule::a_trainer_is_one_rank<P::policy.parallel.ranks()>));
};

/// Weights, gradients and optimizer state of P's model in one arena, and the step that trains them.
template <HasPolicy P, Backend B = DefaultBackend> class Trainer : Verified<P> {
 public:
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& plan = PlanOf<P>::plan;
  static constexpr const auto& graph = GraphOf<P>::graph;

  /// Takes the arena. Weights are new ones drawn from `seed`; optimizer state is zero.
  explicit Trainer(std::uint64_t seed = P::policy.seed) : step_(backend_, map_) {
    for (const NamedTensor& t : tensors()) initialize(t, seed);
    prepare_products();
    weights_changed();
  }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Every tensor of the state dict, in the order of the flat vector, for a host to read and write.
  /// On a device, fetch_state() brings what is there, and weights_changed() sends it back.
  std::vector<NamedTensor> tensors() {
    std::vector<NamedTensor> all;
    Step<P, B>::each_parameter([&](int i, int layer) {
      const Parameter& p = graph.parameters.rows[i];
      std::vector<std::int64_t> shape =
          p.vector ? std::vector<std::int64_t>{p.cols} : std::vector<std::int64_t>{p.rows, p.cols};
      const std::string prefix =
          p.segment == Segment::block ? "bert.encoder.layer." + std::to_string(layer) + "." : "";
      all.push_back({.name = prefix + std::string(p.name),
                     .shape = std::move(shape),
                     .weight = host(map_.parameter(State::weight, i, layer)),
                     .gradient = host(map_.gradient(i, layer)),
                     .gradient_type = gradient_type(p, policy),
                     .first_moment = host(map_.parameter(State::first_moment, i, layer)),
                     .second_moment = host(map_.parameter(State::second_moment, i, layer)),
                     .count = p.elements(),
                     .parameter = i});
    });
    return all;
  }

  /// Draws one tensor anew.
  void initialize(const NamedTensor& t, std::uint64_t seed) {
    ctrain::initialize(graph.parameters.rows[t.parameter], t.name, seed,
                       policy.model.initializer_range, t.weight);
  }

  /// To be called before tensors() are read: weights, gradients and optimizer state.
  void fetch_state() {
    HostView<B>& host = step_.host();
    host.pull(plan.parameters), host.pull(plan.gradients);
    host.pull(plan.first_moment), host.pull(plan.second_moment);
  }
  /// To be called after weights or optimizer state were written from outside.
  void weights_changed() {
    HostView<B>& host = step_.host();
    host.push(plan.parameters), host.push(plan.first_moment), host.push(plan.second_moment);
    step_.prepare_weights();
  }

  Step<P, B>& step() { return step_; }
  B& backend() { return backend_; }
  ArenaOf<B>& arena() { return map_.arena(); }

 private:
  template <class T> T* host(T* address) { return step_.host().at(address); }

  /// Lets a backend that prepares its products per shape do so now, for every shape a step can ask
  /// for.
  void prepare_products() {
    if constexpr (requires { backend_.template prepare_shapes<float>({}, {}); }) {
      using Shapes = std::vector<typename B::LinearShape>;
      constexpr bool packed = copies_of_weights(P::policy) == 2;
      const auto of = [](const Program& program, bool in_blocks) {
        Shapes shapes;
        for (const Op& op : program.ops)
          if (op.kind == OpKind::linear) shapes.push_back({op.out, op.in, in_blocks});
        return shapes;
      };
      const auto steps = [](int step, int most) {
        std::vector<int> rows;
        for (int r = step; r < most; r += step) rows.push_back(r);
        rows.push_back(most);
        return rows;
      };
      const Batch& batch = policy.batch;
      backend_.template prepare_shapes<typename MemoryMap<P>::Compute>(
          of(graph.forward_block, packed), steps(batch.row_step(), batch.rows()));
      backend_.template prepare_shapes<float>(of(graph.forward_head, false),
                                              steps(16, batch.sentence_bound()));
    }
  }

  B backend_;
  MemoryMap<P, ArenaOf<B>> map_;
  Step<P, B> step_;
};

}  // namespace ctrain
