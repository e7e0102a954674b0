/// \file  StreamedTrainer<P>: what a policy becomes whose states do not stay on the device.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/default.hpp>
#include <ctrain/policy/rules.hpp>
#include <ctrain/trainer/initialize.hpp>
#include <ctrain/trainer/streamed_step.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace ctrain {

/// Like Trainer, for policies with offload. States are visited unit by unit, since they are never
/// all in memory.
template <HasPolicy P, Backend B = DefaultBackend> class StreamedTrainer : Check<P> {
  static_assert(P::policy.offload.any(), "a policy that offloads nothing is trained by Trainer<P>");

 public:
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& plan = StreamOf<P>::plan;
  static constexpr const auto& units = StreamOf<P>::units;
  static constexpr const auto& graph = StreamOf<P>::graph;

  /// Takes memory and disk. Weights are new ones drawn from `seed`; optimizer state is zero.
  explicit StreamedTrainer(const StreamOptions& options = {}, std::uint64_t seed = P::policy.seed)
      : step_(backend_, options) {
    for (int unit = 0; unit < units.count(); ++unit) {
      std::vector<float> weights(std::size_t(units.of(unit).elements));
      each_tensor(unit, weights.data(), nullptr, nullptr, [&](const NamedTensor& t) {
        initialize(graph.parameters.rows[t.parameter], t.name, seed, policy.model.initializer_range,
                   0, t.count, t.weight);
      });
      step_.store().save(unit, weights.data(), nullptr, nullptr);
    }
    step_.weights_changed();
  }
  StreamedTrainer(const StreamedTrainer&) = delete;
  StreamedTrainer& operator=(const StreamedTrainer&) = delete;

  StreamedStep<P, B>& step() { return step_; }
  B& backend() { return backend_; }

  /// Calls f(tensor) for every tensor of the state dict, in the order of the flat vector, with its
  /// weight and moments as they are after the last step. With `Writes`, what f changes is kept.
  template <bool Writes = false, class F> void visit(F&& f) {
    step_.flush();
    for (int unit = 0; unit < units.count(); ++unit) {
      std::vector<float> states[3];
      for (auto& s : states) s.resize(std::size_t(units.of(unit).elements));
      step_.store().load(unit, states[0].data(), states[1].data(), states[2].data());
      each_tensor(unit, states[0].data(), states[1].data(), states[2].data(), f);
      if (Writes) step_.store().save(unit, states[0].data(), states[1].data(), states[2].data());
    }
    if (Writes) step_.weights_changed();
  }

 private:
  template <class F>
  static void each_tensor(int unit, float* weights, float* first_moment, float* second_moment,
                          F&& f) {
    const StreamUnit& u = units.of(unit);
    const auto at = [&](float* values, const Parameter& p) {
      return values == nullptr ? nullptr : values + (p.offset - u.start);
    };
    for (int i = u.first; i < u.first + u.count; ++i) {
      const Parameter& p = graph.parameters.rows[i];
      const std::string prefix =
          u.segment == Segment::block
              ? "bert.encoder.layer." + std::to_string(units.layer(unit)) + "."
              : "";
      f(NamedTensor{.name = prefix + std::string(p.name),
                    .shape = p.vector ? std::vector<std::int64_t>{p.cols}
                                      : std::vector<std::int64_t>{p.rows, p.cols},
                    .weight = at(weights, p),
                    .gradient = nullptr,
                    .gradient_type = gradient_type(p, policy),
                    .first_moment = at(first_moment, p),
                    .second_moment = at(second_moment, p),
                    .count = p.elements(),
                    .parameter = i});
    }
  }

  B backend_;
  StreamedStep<P, B> step_;
};

}  // namespace ctrain
