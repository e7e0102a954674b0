/// \file  Trainer<P>: what a policy becomes when it is valid and fits.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/comm/single.hpp>
#include <ctrain/backend/comm/transfer.hpp>
#include <ctrain/backend/default.hpp>
#include <ctrain/model/row_counts.hpp>
#include <ctrain/policy/rules.hpp>
#include <ctrain/schedule/check.hpp>
#include <ctrain/trainer/initialize.hpp>
#include <ctrain/trainer/memory_map.hpp>
#include <ctrain/trainer/state_dict.hpp>
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
  const void* gradient = nullptr;  // floats, or what the policy keeps gradients in
  DType gradient_type = DType::fp32;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  std::int64_t count = 0;
  int parameter = 0;  // row of the parameter table

  float gradient_at(std::int64_t i) const {
    if (gradient_type == DType::bf16) return float(static_cast<const bf16*>(gradient)[i]);
    if (gradient_type == DType::fp16) return float(static_cast<const fp16*>(gradient)[i]);
    return static_cast<const float*>(gradient)[i];
  }
};

/// One rank's share of the weights, gradients and optimizer state of P's model in one arena, and
/// the step that trains them.
template <HasPolicy P, Backend B = DefaultBackend, Communicator C = Single>
class Trainer : Check<P> {
  static_assert(!P::policy.offload.any(),
                "a policy with offload is trained by StreamedTrainer<P>, or leave offload out");

 public:
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& graph = GraphOf<P>::graph;
  /// Whether step().launch() returns before a step has ended.
  static constexpr bool runs_ahead = Step<P, B, C>::runs_ahead;

  /// Takes the arena. Weights are new ones drawn from `seed`; optimizer state is zero.
  explicit Trainer(std::uint64_t seed = P::policy.seed) : Trainer(nobody(), seed) {
    static_assert(
        P::policy.parallel.ranks() == 1,
        "a policy of several ranks needs a communicator: Trainer<P, B, Mpi>(communicator)");
  }
  /// The same on one of the policy's ranks, which is what the communicator says.
  explicit Trainer(C& communicator, std::uint64_t seed = P::policy.seed)
      : communicator_(communicator),
        map_(grid_of(P::policy.parallel).at(communicator.rank())),
        step_(backend_, map_, communicator) {
    initialize(seed, [](const TensorPart&) { return true; });
    prepare_products();
    weights_changed();
  }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Every tensor of the state dict, in the order of the flat vector, for a host to read and write;
  /// of a policy of one rank. On a device, fetch_state() brings what is there, and
  /// weights_changed() sends it back.
  std::vector<NamedTensor> tensors() {
    step_.require_synced("reading weights");
    static_assert(P::policy.parallel.ranks() == 1, "ranks hold parts of tensors: see parts()");
    std::vector<NamedTensor> all;
    each_run([&](const Run& run) {
      const Parameter& p = graph.parameters.rows[run.parameter];
      all.push_back({.name = name_of(run),
                     .shape = whole_shape(p, 1),
                     .weight = host(map_.at(State::weight, run)),
                     .gradient = host(map_.gradient(run.parameter, run.layer)),
                     .gradient_type = gradient_type(p, policy),
                     .first_moment = host(map_.at(State::first_moment, run)),
                     .second_moment = host(map_.at(State::second_moment, run)),
                     .count = p.elements(),
                     .parameter = run.parameter});
    });
    return all;
  }

  /// The state dict, whatever this rank has of it.
  static std::vector<LogicalTensor> state_dict() {
    return state_dict_of(graph.parameters, policy.parallel.tensor);
  }

  /// What this rank holds of one state, for a host to read and write. Throws Error while data ranks
  /// have different ones: see Step::require_synced().
  std::vector<TensorPart> parts(State state) {
    step_.require_synced("reading weights");
    const bool shards = MemoryMap<P>::split.zero.stage >= (state == State::weight ? 3 : 1);
    std::vector<TensorPart> all;
    for (int b = map_.layout().buckets.size - 1; b >= 0; --b)
      map_.each_run(b, shards, [&](const Run& run) {
        const Parameter& p = graph.parameters.rows[run.parameter];
        const Slice slice = slice_of(p, map_.at().tensor, policy.parallel.tensor);
        const std::int64_t end = run.first + run.count;
        for (std::int64_t at = run.first, count = 0; at < end; at += count) {
          count = slice.run(p, at, end);
          all.push_back(
              {.name = name_of(run),
               .shape = whole_shape(p, policy.parallel.tensor),
               .first = slice.logical(p, at),
               .count = count,
               .data = host(map_.at(state, run)) + (at - run.first),
               .parameter = run.parameter,
               .layer = run.layer,
               .is_mine = (shards || map_.at().data == 0) && speaks_for(p, map_.at().tensor)});
        }
      });
    return all;
  }

  /// What this rank has of what the optimizer keeps beside its moments, for a host to read and
  /// write; `shape` is that of the whole in a file. The errors of a worker are a row of (data
  /// ranks, padded), those of the servers one after the other (padded).
  std::vector<TensorPart> parts(OptimizerBuffer buffer) {
    std::vector<TensorPart> all;
    if (!has_buffer(policy, buffer)) return all;
    static constexpr SignTraffic traffic = sign_traffic(graph.parameters, policy.parallel.data);
    static constexpr OneBitLambLayout lamb = one_bit_lamb_layout(policy, graph.parameters);
    TensorCursor at;
    for (int b = 0; b < map_.layout().buckets.size; ++b)
      map_.each_run(b, false, [&](const Run& run) {
        const SignLayout layout{run.count, traffic.ranks};
        const BufferPlace place = place_of(buffer, traffic, lamb, layout, at);
        at.pass(layout);
        TensorPart part{.name = name_of(run),
                        .shape = {place.count},
                        .count = place.count,
                        .data = host(map_.template optimizer<float>(place.offset, 4 * place.count)),
                        .parameter = run.parameter,
                        .layer = run.layer,
                        .is_mine = is_error(buffer) || map_.at().data == 0};
        if (buffer == OptimizerBuffer::moving_variance)
          part.shape = whole_shape(graph.parameters.rows[run.parameter], policy.parallel.tensor);
        if (buffer == OptimizerBuffer::worker_error) part.shape = {traffic.ranks, place.count};
        if (buffer == OptimizerBuffer::server_error) part.shape = {layout.padded()};
        if (is_error(buffer)) part.first = map_.at().data * place.count;
        all.push_back(std::move(part));
      });
    return all;
  }

  /// Calls visit(state, part) for what this rank holds of these states. Where a trainer keeps them
  /// elsewhere, part.data is good until visit returns.
  template <class Visit> void read_states(const std::vector<State>& states, Visit&& visit) {
    fetch_state();
    for (const State state : states)
      for (const TensorPart& part : parts(state)) visit(state, part);
  }
  /// The same for a visit that writes.
  template <class Visit> void write_states(const std::vector<State>& states, Visit&& visit) {
    read_states(states, visit);
    weights_changed();
  }

  /// Step::evaluate(), which calls see(i) if this rank has evaluated the i-th of the micro-batches
  /// that were opened; the step's predictions() and the like are then of that one.
  template <Feed F, class See> bool evaluate(F& feed, StepResult& result, See&& see) {
    if (!step_.evaluate(feed, result)) return false;
    if (step_.evaluated() >= 0) see(step_.evaluated());
    return true;
  }

  /// Draws the weights that `choose(part)` names anew.
  template <class Choose> void initialize(std::uint64_t seed, Choose&& choose) {
    for (const TensorPart& part : parts(State::weight))
      if (choose(part))
        ctrain::initialize(graph.parameters.rows[part.parameter], part.name, seed,
                           policy.model.initializer_range, part.first, part.count, part.data);
  }

  /// To be called before tensors() are read: weights, gradients and optimizer state.
  void fetch_state() {
    step_.catch_up();
    HostView<B>& host = step_.host();
    host.pull(plan().parameters), host.pull(plan().gradients);
    host.pull(plan().first_moment), host.pull(plan().second_moment), host.pull(plan().optimizer);
  }
  /// To be called after weights or optimizer state were written from outside.
  void weights_changed() {
    step_.catch_up();
    HostView<B>& host = step_.host();
    host.push(plan().parameters), host.push(plan().first_moment), host.push(plan().second_moment);
    host.push(plan().optimizer);
    step_.prepare_weights();
  }

  const MemoryPlan& plan() const { return map_.plan(); }
  Step<P, B, C>& step() { return step_; }
  /// Bytes of memory, as planned and as asked for so far.
  bytes memory() const { return plan().arena(); }
  bytes high_water() const { return map_.arena().high_water(); }
  C& communicator() { return communicator_; }
  B& backend() { return backend_; }
  ArenaOf<B>& arena() { return map_.arena(); }

 private:
  static C& nobody() {
    static C single;
    return single;
  }
  template <class T> T* host(T* address) { return step_.host().at(address); }

  template <class Visit> void each_run(Visit&& visit) {
    for (int b = map_.layout().buckets.size - 1; b >= 0; --b) map_.each_run(b, false, visit);
  }
  static std::string name_of(const Run& run) {
    return tensor_name(graph.parameters.rows[run.parameter], run.layer);
  }

  /// Lets a backend that prepares its products per shape do so now, for every shape a step can ask
  /// for.
  void prepare_products() {
    if constexpr (requires { backend_.prepare_products(graph, policy); })
      backend_.prepare_products(graph, policy);
    if constexpr (requires { backend_.template prepare_shapes<float>({}, {}); }) {
      using Shapes = std::vector<typename B::LinearShape>;
      constexpr bool packed = copies_of_weights(P::policy) == 2;
      const auto of = [](const Program& program, bool in_blocks) {
        Shapes shapes;
        for (const Op& op : program.ops)
          if (op.kind == OpKind::linear) shapes.push_back({op.out, op.in, in_blocks});
        return shapes;
      };
      backend_.template prepare_shapes<typename MemoryMap<P>::Compute>(
          of(graph.forward_block, packed), row_counts(policy.batch, Rows::tokens));
      backend_.template prepare_shapes<float>(of(graph.forward_head, false),
                                              row_counts(policy.batch, Rows::sentences));
    }
  }

  C& communicator_;
  B backend_;
  MemoryMap<P, ArenaOf<B>> map_;
  Step<P, B, C> step_;
};

}  // namespace ctrain
