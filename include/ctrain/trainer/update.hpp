/// \file  The end of a step: what each optimizer does with a gradient, tensor by tensor.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/math/compressed_programs.hpp>
#include <ctrain/backend/math/row_programs.hpp>
#include <ctrain/backend/row_calls.hpp>
#include <ctrain/memory/sign_traffic.hpp>
#include <ctrain/trainer/memory_map.hpp>

#include <algorithm>
#include <cstdint>

namespace ctrain {

/// Runs P's optimizer on one rank.
template <HasPolicy P, Backend B> class Update {
  static constexpr const auto& graph = GraphOf<P>::graph;
  static constexpr const auto& optimizer = P::policy.optimizer;
  static constexpr OptimizerKind kind = P::policy.optimizer.kind;
  static constexpr bool as_in_paper = P::policy.optimizer.compat == Compat::paper;
  static constexpr SignTraffic traffic =
      sign_traffic(GraphOf<P>::graph.parameters, P::policy.parallel.data);
  using Map = MemoryMap<P, ArenaOf<B>>;

 public:
  Update(B& backend, Map& map) : backend_(backend), map_(map) {}

  /// Whether data ranks send each other signs in the t-th update, instead of gradients.
  static constexpr bool sums_signs(std::int64_t t) {
    return ScheduleOf<P>::sends_signs && t > optimizer.compression.freeze_step;
  }

  /// The numbers of what follows; weight decay is told apart by parameter. Adam reads its own where
  /// the step has decided them.
  void begin(const OptimizerNumbers& numbers) { numbers_ = numbers; }

  /// One update of consecutive elements of a parameter.
  template <class G> void run(const Run& run, const G* gradient) {
    const OptimizerNumbers n = numbers_of(run);
    if constexpr (is_adam(kind))
      adam(run, gradient, n, kind, true, decided(run));
    else if constexpr (kind == OptimizerKind::lamb)
      lamb(run, gradient, n);
    else if constexpr (kind == OptimizerKind::one_bit_lamb)
      one_bit_lamb(run, gradient, n);
    else
      one_bit_adam(run, gradient, n);
  }

  /// What comes before and after all tensors of an update.
  void begin_tensors() { tensor_ = 0, element_ = 0; }
  void end_tensors() {
    if constexpr (kind == OptimizerKind::one_bit_lamb)
      if (numbers_.t == optimizer.compression.freeze_step) freeze();
  }

  /// Momentum follows this rank's own gradients, `each_gradient(visit(run, gradient))`; signs of it
  /// and of what was lost before are made ready for their servers.
  template <class EachGradient> void compress(EachGradient&& each_gradient) {
    TensorCursor at;
    each_gradient([&](const Run& run, const auto* gradient) {
      using G = std::remove_cvref_t<decltype(*gradient)>;
      const SignLayout layout{run.count, traffic.ranks};
      float* const m = map_.at(State::first_moment, run);
      float* const error = floats(traffic.worker_errors() + 4 * at.padded, layout.padded());
      keep_before(run, m, at);
      backend_.run(
          RunRows<FollowGradient, G>{FollowGradient(numbers_of(run)), {m}, run.count, gradient});
      add_to_error(run, error, m, at);
      const ExactSum* const sum = squares(error, layout.padded());
      for (int to = 0; to < traffic.ranks; ++to)
        backend_.run(PackSigns{signs(message_to(to), at), scale(message_to(to), at),
                               error + to * layout.chunk(), sum, layout.padded(), layout.chunk()});
      at.pass(layout);
    });
  }

  /// The mean of this rank's chunk of all signs, and what was lost of it before, as signs.
  void serve() {
    TensorCursor at;
    each_tensor([&](const Run& run) {
      const SignLayout layout{run.count, traffic.ranks};
      float* const error = floats(traffic.server_errors() + 4 * at.chunk, layout.chunk());
      const bytes first = traffic.incoming(), mine = mean_of(map_.at().data);
      backend_.run(AddMeanOfSigns{error, signs(first, at), scale(first, at), traffic.message(),
                                  layout.chunk(), traffic.ranks});
      backend_.run(PackSigns{signs(mine, at), scale(mine, at), error,
                             squares(error, layout.chunk()), layout.chunk(), layout.chunk()});
      at.pass(layout);
    });
  }

  /// The mean momentum, as all servers' signs tell it.
  void take_means() {
    TensorCursor at;
    each_tensor([&](const Run& run) {
      const SignLayout layout{run.count, traffic.ranks};
      float* const m = map_.at(State::first_moment, run);
      for (int server = 0; server < traffic.ranks; ++server) {
        const std::int64_t first = server * layout.chunk();
        if (first < run.count)
          backend_.run(UnpackSigns{m + first, signs(mean_of(server), at),
                                   scale(mean_of(server), at),
                                   std::min(layout.chunk(), run.count - first)});
      }
      if constexpr (kind == OptimizerKind::one_bit_lamb)
        backend_.run(RunRows<ScaleBack>{{tensor(at.tensor)}, {m}, run.count});
      keep_within_variance(run, m, layout, at);
      at.pass(layout);
    });
  }

  /// What all ranks exchange, as transfers.
  void* signs_in_flight() {
    return map_.template optimizer<std::byte>(traffic.outgoing(),
                                              2 * traffic.ranks * traffic.message());
  }
  void* means_in_flight() {
    return map_.template optimizer<std::byte>(traffic.means(), traffic.ranks * traffic.message());
  }

 private:
  /// What the bound cuts off, the server of its chunk sends later; DeepSpeed only leaves out what
  /// never had a gradient.
  void keep_within_variance(const Run& run, float* m, const SignLayout& layout,
                            const TensorCursor& at) {
    float* const v = map_.at(State::second_moment, run);
    if constexpr (!as_in_paper) {
      backend_.run(RunRows<KeepWithinVariance>{{}, {m, v}, run.count});
    } else {
      const float bound = adam_bound(numbers_, optimizer.compression.freeze_step);
      const std::int64_t first = map_.at().data * layout.chunk();
      const std::int64_t mine = std::min(layout.chunk(), run.count - first);
      OneBitLambTensor* const of =
          kind == OptimizerKind::one_bit_lamb ? tensor(at.tensor) : nullptr;
      float* const error = floats(traffic.server_errors() + 4 * at.chunk, layout.chunk());
      if (mine > 0)
        backend_.run(RunRows<KeepWhatIsCutOff>{{bound, of}, {error, m + first, v + first}, mine});
      backend_.run(RunRows<KeepWithinVariance>{{bound}, {m, v}, run.count});
    }
  }

  OptimizerNumbers numbers_of(const Run& run) const {
    OptimizerNumbers n = numbers_;
    if (!decays(graph.parameters.rows[run.parameter], optimizer.decay)) n.weight_decay = 0;
    return n;
  }
  const AdamWFactors* decided(const Run& run) {
    StepState* const state = map_.state();
    return decays(graph.parameters.rows[run.parameter], optimizer.decay) ? &state->decaying
                                                                         : &state->plain;
  }
  template <class G>
  void adam(const Run& run, const G* gradient, const OptimizerNumbers& n, OptimizerKind which,
            bool correct_bias, const AdamWFactors* decided = nullptr) {
    backend_.run(AdamWUpdateOf<G>{.weight = map_.at(State::weight, run),
                                  .first_moment = map_.at(State::first_moment, run),
                                  .second_moment = map_.at(State::second_moment, run),
                                  .gradient = gradient,
                                  .count = run.count,
                                  .kind = which,
                                  .learning_rate = n.learning_rate,
                                  .beta1 = n.beta1,
                                  .beta2 = n.beta2,
                                  .epsilon = n.epsilon,
                                  .weight_decay = n.weight_decay,
                                  .gradient_scale = n.gradient_scale,
                                  .t = n.t,
                                  .correct_bias = correct_bias,
                                  .decided = decided});
  }

  template <class G> void lamb(const Run& run, const G* gradient, const OptimizerNumbers& n) {
    float *const w = map_.at(State::weight, run), *const m = map_.at(State::first_moment, run),
                 *const v = map_.at(State::second_moment, run);
    auto* const norms = map_.template optimizer<LambNorms>(0, sizeof(LambNorms));
    const Descend by = ctrain::lamb(n, optimizer.compat);
    backend_.run(RunRows<FollowMoments, G>{FollowMoments(n), {m, v}, run.count, gradient});
    backend_.run(Clear{norms, sizeof *norms});
    backend_.run(SumOfSquares{&norms->weight, w, run.count});
    backend_.run(SumSquaresOfRows<Direction>{&norms->update, by.direction, {w, m, v}, run.count});
    backend_.run(RunRows<DescendByTrust>{{by, optimizer.trust_ratio, norms}, {w, m, v}, run.count});
  }

  /// Adam until the variance is frozen; then steps along the momentum, which several data ranks
  /// have summed as signs before. DeepSpeed loses the first gradient, and corrects no bias; in the
  /// paper's form that of the variance stays as it was when frozen.
  template <class G>
  void one_bit_adam(const Run& run, const G* gradient, const OptimizerNumbers& n) {
    constexpr std::int64_t freeze_step = optimizer.compression.freeze_step;
    if (!as_in_paper && n.t == 1) return;
    if (n.t <= freeze_step) return adam(run, gradient, n, OptimizerKind::adamw_torch, as_in_paper);
    float* const m = map_.at(State::first_moment, run);
    if (!sums_signs(n.t))
      backend_.run(RunRows<FollowGradient, G>{FollowGradient(n), {m}, run.count, gradient});
    const Direction direction =
        as_in_paper ? corrected_direction(n, freeze_step) : plain_direction(n);
    backend_.run(
        RunRows<Descend>{{direction, n.learning_rate},
                         {map_.at(State::weight, run), m, map_.at(State::second_moment, run)},
                         run.count});
  }

  // 1-bit LAMB -----------------------------------------------------------------------------------

  static constexpr OneBitLambLayout lamb_layout =
      one_bit_lamb_layout(P::policy, GraphOf<P>::graph.parameters);

  OneBitLambTensor* tensor(std::int64_t i) {
    return map_.template optimizer<OneBitLambTensor>(
        lamb_layout.tensors + OneBitLambLayout::numbers * i, sizeof(OneBitLambTensor));
  }
  float* moving_variance(std::int64_t element, const Run& run) {
    return floats(lamb_layout.variance + 4 * element, round_up(run.count, 16));
  }
  float* momentum_before(std::int64_t element, const Run& run) {
    return floats(lamb_layout.before + 4 * element, round_up(run.count, 16));
  }
  void copy(float* to, const float* from, const Run& run) {
    backend_.run(CastForward<float>{to, from, int(round_up(run.count, 16) / 16), 16});
  }
  void keep_before(const Run& run, const float* m, const TensorCursor& at) {
    if constexpr (kind == OptimizerKind::one_bit_lamb)
      copy(momentum_before(at.element, run), m, run);
  }
  void add_to_error(const Run& run, float* error, float* m, const TensorCursor& at) {
    if constexpr (kind == OptimizerKind::one_bit_lamb)
      backend_.run(RunRows<AddScaledToError>{{tensor(at.tensor)}, {error, m}, run.count});
    else
      backend_.run(RunRows<AddToError>{{}, {error, m}, run.count});
  }

  /// LAMB without corrections while the trust ratio is averaged; then momentum alone follows the
  /// gradient, and the averaged ratio is scaled by how a variance that still moves has changed.
  template <class G>
  void one_bit_lamb(const Run& run, const G* gradient, const OptimizerNumbers& n) {
    OneBitLambTensor* const own = tensor(tensor_++);
    const std::int64_t element = element_;
    element_ += round_up(run.count, 16);
    if (!as_in_paper && n.t == 1) return;
    float *const w = map_.at(State::weight, run), *const m = map_.at(State::first_moment, run),
                 *const v = map_.at(State::second_moment, run);
    auto* const norms = map_.template optimizer<LambNorms>(0, sizeof(LambNorms));
    const Direction by = plain_direction(n);
    Direction moved = by;
    moved.decay = 0;
    backend_.run(Clear{norms, sizeof *norms});
    if (n.t <= optimizer.compression.freeze_step) {
      backend_.run(RunRows<FollowMoments, G>{FollowMoments(n), {m, v}, run.count, gradient});
      backend_.run(SumOfSquares{&norms->weight, w, run.count});
      backend_.run(SumSquaresOfRows<Direction>{&norms->update, by, {w, m, v}, run.count});
      backend_.run(RunOnce<AverageTrust>{
          {own, norms, optimizer.trust_ratio, optimizer.compression.coefficient_beta}});
      backend_.run(RunRows<DescendByTrust>{
          {{by, n.learning_rate}, optimizer.trust_ratio, norms}, {w, m, v}, run.count});
      return;
    }
    float *const moving = moving_variance(element, run), *const before =
                                                             momentum_before(element, run);
    if (!sums_signs(n.t)) {
      copy(before, m, run);
      backend_.run(RunRows<FollowGradient, G>{FollowGradient(n), {m}, run.count, gradient});
    }
    backend_.run(RunRows<FollowMomentum>{FollowMomentum(n), {moving, m, before}, run.count});
    backend_.run(SumSquaresOfRows<Direction>{&norms->weight, moved, {w, m, v}, run.count});
    backend_.run(SumSquaresOfRows<Direction>{&norms->update, by, {w, m, v}, run.count});
    backend_.run(
        LargestOfRows<VarianceRatio>{&own->largest_ratio, {n.epsilon}, {v, moving}, run.count});
    backend_.run(RunOnce<TakeFactor>{{own, norms, n.weight_decay > 0, optimizer.compression}});
    backend_.run(RunRows<DescendByCoefficient>{{{by, n.learning_rate}, own}, {w, m, v}, run.count});
  }

  /// The variance that moves on starts where the other is frozen; tensors' momenta are measured.
  void freeze() {
    auto* const mean = map_.template optimizer<float>(128, sizeof(float));
    backend_.run(Clear{mean, sizeof *mean});
    TensorCursor at;
    each_tensor([&](const Run& run) {
      const float* const m = map_.at(State::first_moment, run);
      copy(moving_variance(at.element, run), map_.at(State::second_moment, run), run);
      backend_.run(RunOnce<TakeRoot>{
          {tensor(at.tensor), squares(m, run.count), run.count, traffic.tensors, mean}});
      at.pass({run.count, traffic.ranks});
    });
    for (std::int64_t i = 0; i < traffic.tensors; ++i)
      backend_.run(RunOnce<TakeMeanRoot>{{tensor(i), mean}});
  }

  template <class Visit> void each_tensor(Visit&& visit) {
    for (int b = 0; b < map_.layout().buckets.size; ++b) map_.each_run(b, false, visit);
  }

  // the optimizer's own memory -------------------------------------------------------------------

  float* floats(bytes offset, std::int64_t count) {
    return map_.template optimizer<float>(offset, 4 * count);
  }
  const ExactSum* squares(const float* values, std::int64_t count) {
    auto* const sum = map_.template optimizer<ExactSum>(0, sizeof(ExactSum));
    backend_.run(Clear{sum, sizeof *sum});
    backend_.run(SumOfSquares{sum, values, count});
    return sum;
  }
  /// What this rank sends itself stands where it would come in.
  bytes message_to(int rank) const {
    const bytes first = rank == map_.at().data ? traffic.incoming() : traffic.outgoing();
    return first + rank * traffic.message();
  }
  static bytes mean_of(int server) { return traffic.means() + server * traffic.message(); }
  float* scale(bytes message, const TensorCursor& at) { return floats(message + 4 * at.tensor, 1); }
  std::uint8_t* signs(bytes message, const TensorCursor& at) {
    return map_.template optimizer<std::uint8_t>(message + traffic.scales() + at.chunk_bytes, 1);
  }

  B& backend_;
  Map& map_;
  OptimizerNumbers numbers_;
  std::int64_t tensor_ = 0, element_ = 0;  // of the next tensor of an update
};

}  // namespace ctrain
