/// \file  StreamedTrainer<P>: what a policy becomes whose states do not stay on the device.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/comm/single.hpp>
#include <ctrain/backend/default.hpp>
#include <ctrain/policy/rules.hpp>
#include <ctrain/schedule/check.hpp>
#include <ctrain/trainer/initialize.hpp>
#include <ctrain/trainer/state_dict.hpp>
#include <ctrain/trainer/streamed_step.hpp>

#include <cstdint>
#include <vector>

namespace ctrain {

/// What Trainer is, for policies with offload. States are visited piece by piece where they pass
/// through the plan's memory, so that no checkpoint needs more of it than a step.
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
    visit<StreamAccess::replace>({State::weight}, [&](State, const TensorPart& part) {
      initialize(graph.parameters.rows[part.parameter], part.name, seed,
                 policy.model.initializer_range, part.first, part.count, part.data);
    });
  }
  StreamedTrainer(const StreamedTrainer&) = delete;
  StreamedTrainer& operator=(const StreamedTrainer&) = delete;

  StreamedStep<P, B>& step() { return step_; }
  B& backend() { return backend_; }
  Single& communicator() { return alone_; }
  /// Bytes of memory, as planned. All of it is taken at start.
  bytes memory() const { return plan.device() + plan.host(); }
  bytes high_water() const { return memory(); }

  static std::vector<LogicalTensor> state_dict() { return state_dict_of(graph.parameters); }

  /// Calls visit(state, part) for all of these states as they are after the last step; part.data is
  /// good until it returns. Parts are pieces of the plan: a tensor can come in several.
  template <class Visit> void read_states(const std::vector<State>& states, Visit&& visit) {
    if (states == std::vector{State::weight})
      this->visit<StreamAccess::read_weights>(states, visit);
    else
      this->visit<StreamAccess::read>(states, visit);
  }
  /// The same for a visit that writes.
  template <class Visit> void write_states(const std::vector<State>& states, Visit&& visit) {
    this->visit<StreamAccess::change>(states, visit);
  }

  template <Feed F, class See> bool evaluate(F& feed, StepResult& result, See&& see) {
    return step_.evaluate(feed, result, see);
  }

 private:
  template <StreamAccess Access, class Visit>
  void visit(const std::vector<State>& states, Visit&& visit) {
    step_.template visit<Access>([&](int unit, int piece, float* const(&values)[3]) {
      each_part(graph.parameters, units.of(unit), piece,
                [&](int row, std::int64_t first, std::int64_t at, std::int64_t count) {
                  const Parameter& p = graph.parameters.rows[row];
                  TensorPart part{.name = tensor_name(p, units.layer(unit)),
                                  .shape = whole_shape(p, 1),
                                  .first = first,
                                  .count = count,
                                  .parameter = row,
                                  .layer = units.layer(unit)};
                  for (const State state : states) {
                    part.data = values[int(state)] + at;
                    visit(state, part);
                  }
                });
    });
  }

  B backend_;
  Single alone_;
  StreamedStep<P, B> step_;
};

}  // namespace ctrain
