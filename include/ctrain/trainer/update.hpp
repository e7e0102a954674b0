/// \file  The end of a step: what each optimizer does with a gradient, tensor by tensor.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/math/compressed_programs.hpp>
#include <ctrain/backend/math/row_programs.hpp>
#include <ctrain/backend/row_calls.hpp>
#include <ctrain/memory/sign_traffic.hpp>
#include <ctrain/trainer/memory_map.hpp>
#include <ctrain/trainer/sign_sums.hpp>
#include <ctrain/trainer/zero_one_update.hpp>

#include <cstdint>

namespace ctrain {

/// Runs P's optimizer on one rank.
template <HasPolicy P, Backend B> class Update {
  static constexpr const auto& graph = GraphOf<P>::graph;
  static constexpr const auto& optimizer = P::policy.optimizer;
  static constexpr OptimizerKind kind = P::policy.optimizer.kind;
  static constexpr bool as_in_paper = P::policy.optimizer.compat == Compat::paper;
  static constexpr bool is_zero_one = kind == OptimizerKind::zero_one_adam;
  using Map = MemoryMap<P, ArenaOf<B>>;

 public:
  Update(B& backend, Map& map)
      : backend_(backend), map_(map), signs_(backend, map), zero_one_(backend, map, signs_) {}

  /// What data ranks send each other in the t-th update, which is next.
  Sums sums(std::int64_t t) {
    if constexpr (is_zero_one) return zero_one_.sums(t);
    return sums_signs(t) ? Sums::signs : Sums::gradients;
  }

  /// Whether run() refreshes the copies of the weights that it changes, as it goes.
  static constexpr bool prepares_weights = JoinsCalls<B> && is_adam(kind) &&
                                           copies_of_weights(P::policy) > 0 &&
                                           P::policy.zero.stage == 0;

  /// The numbers of what follows; weight decay is told apart by parameter. Adam and LAMB read
  /// what the step has decided in memory.
  void begin(const OptimizerNumbers& numbers) {
    numbers_ = numbers;
    if constexpr (is_zero_one) zero_one_.begin(numbers);
  }

  /// One update of consecutive elements of a parameter.
  template <class G> void run(const Run& run, const G* gradient) {
    const OptimizerNumbers n = numbers_of(run);
    const TensorCursor at = at_;
    at_.pass(signs_.layout_of(run));
    if constexpr (is_adam(kind))
      adam(run, gradient, n, kind, true, &decided(run)->adam);
    else if constexpr (kind == OptimizerKind::lamb)
      lamb(run, gradient);
    else if constexpr (kind == OptimizerKind::one_bit_lamb)
      one_bit_lamb(run, gradient, n, at);
    else if constexpr (is_zero_one)
      zero_one_.run(run, gradient, n, at);
    else
      one_bit_adam(run, gradient, n);
  }

  /// What comes before and after all tensors of an update.
  void begin_tensors() { at_ = {}; }
  void end_tensors() {
    if constexpr (is_zero_one) zero_one_.end();
    if constexpr (kind == OptimizerKind::one_bit_lamb)
      if (numbers_.t == optimizer.compression.freeze_step) freeze();
  }

  /// What this rank has, after its own gradients, `each_gradient(visit(run, gradient))`, joins what
  /// was lost before, and signs of it are made ready for their servers.
  template <class EachGradient> void compress(EachGradient&& each_gradient) {
    TensorCursor at;
    if constexpr (is_zero_one) zero_one_.begin_signs();
    each_gradient([&](const Run& run, const auto* gradient) {
      const SignLayout layout = signs_.layout_of(run);
      if constexpr (is_zero_one)
        zero_one_.add_to_error(run, gradient, numbers_of(run), at);
      else
        add_momentum_to_error(run, gradient, at);
      signs_.pack(layout, at);
      at.pass(layout);
    });
  }
  /// The same without a gradient, of what was gathered in steps before.
  void compress_gathered() {
    TensorCursor at;
    signs_.each_tensor([&](const Run& run) {
      signs_.pack(signs_.layout_of(run), at);
      at.pass(signs_.layout_of(run));
    });
  }
  void serve() { signs_.serve(); }

  /// The mean of what all ranks have.
  void take_means() {
    TensorCursor at;
    signs_.each_tensor([&](const Run& run) {
      if constexpr (is_zero_one)
        zero_one_.take_mean(run, numbers_of(run), at);
      else
        take_mean_momentum(run, at);
      at.pass(signs_.layout_of(run));
    });
  }
  SignSums<P, B>& signs() { return signs_; }

  // between two steps ----------------------------------------------------------------------------

  /// Whether all data ranks have the same weights, and how many updates from here they will.
  bool is_synced() const { return !is_zero_one || zero_one_.is_synced(); }
  std::int64_t steps_to_sync() const { return is_zero_one ? zero_one_.steps_to_sync() : 0; }
  /// A sync without a gradient: compress_gathered(), serve() and take_means() come between, and
  /// nothing on a rank alone.
  void begin_sync() { zero_one_.begin_sync(); }
  void end_sync() {
    TensorCursor at;
    if constexpr (!ScheduleOf<P>::sends_signs)
      signs_.each_tensor([&](const Run& run) {
        zero_one_.take_own_mean(run, at);
        at.pass(signs_.layout_of(run));
      });
    zero_one_.end_sync();
  }

 private:
  static constexpr bool sums_signs(std::int64_t t) {
    return ScheduleOf<P>::sends_signs && t > optimizer.compression.freeze_step;
  }
  OptimizerNumbers numbers_of(const Run& run) const {
    OptimizerNumbers n = numbers_;
    if (!decays(run)) n.weight_decay = 0;
    return n;
  }
  static bool decays(const Run& run) {
    return ctrain::decays(graph.parameters.rows[run.parameter], optimizer.decay);
  }
  const Decided* decided(const Run& run) {
    return decays(run) ? &map_.state()->decaying : &map_.state()->plain;
  }
  template <class G>
  void adam(const Run& run, const G* gradient, const OptimizerNumbers& n, OptimizerKind which,
            bool correct_bias, const AdamWFactors* decided = nullptr) {
    const AdamWUpdateOf<G> update{.weight = map_.at(State::weight, run),
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
                                  .decided = decided};
    if constexpr (prepares_weights)
      if (const Op* const op = linear_of(run.parameter)) {
        const auto& rows = graph.parameters.rows;
        const std::int64_t before = rows[run.parameter].offset - rows[op->parameter].offset;
        return backend_.run(AdamWUpdateAndPrepare<typename Map::Compute, G>{
            update,
            map_.preparation(*op, run.layer),
            {int(before / op->in), int(run.count / op->in)}});
      }
    backend_.run(update);
  }
  /// The product of a block that reads a parameter as rows of its matrix; none: nullptr.
  static const Op* linear_of(int parameter) {
    const Parameter& p = graph.parameters.rows[parameter];
    if (p.segment != Segment::block) return nullptr;
    for (const Op& op : graph.forward_block.ops) {
      if (op.kind != OpKind::linear) continue;
      const std::int64_t before = p.offset - graph.parameters.rows[op.parameter].offset;
      if (before >= 0 && before < std::int64_t{op.out} * op.in) return &op;
    }
    return nullptr;
  }

  template <class G> void lamb(const Run& run, const G* gradient) {
    float *const w = map_.at(State::weight, run), *const m = map_.at(State::first_moment, run),
                 *const v = map_.at(State::second_moment, run);
    auto* const norms = map_.template optimizer<LambNorms>(0, sizeof(LambNorms));
    const LambStep* const step = &decided(run)->lamb;
    backend_.run(RunRows<FollowMomentsOf, G>{{step}, {m, v}, run.count, gradient});
    backend_.run(Clear{norms, sizeof *norms});
    backend_.run(SumOfSquares{&norms->weight, w, run.count});
    backend_.run(SumSquaresOfRows<DirectionOf>{&norms->update, {step}, {w, m, v}, run.count});
    backend_.run(
        RunRows<DescendByTrustOf>{{step, optimizer.trust_ratio, norms}, {w, m, v}, run.count});
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

  /// Momentum follows this rank's gradient, and is what it compresses.
  template <class G>
  void add_momentum_to_error(const Run& run, const G* gradient, const TensorCursor& at) {
    float *const m = map_.at(State::first_moment, run), *const error =
                                                            signs_.error(signs_.layout_of(run), at);
    if constexpr (kind == OptimizerKind::one_bit_lamb)
      signs_.copy(momentum_before(at.element, run), m, run);
    backend_.run(
        RunRows<FollowGradient, G>{FollowGradient(numbers_of(run)), {m}, run.count, gradient});
    if constexpr (kind == OptimizerKind::one_bit_lamb)
      backend_.run(RunRows<AddScaledToError>{{tensor(at.tensor)}, {error, m}, run.count});
    else
      backend_.run(RunRows<AddToError>{{}, {error, m}, run.count});
  }
  void take_mean_momentum(const Run& run, const TensorCursor& at) {
    float* const m = map_.at(State::first_moment, run);
    signs_.unpack(m, signs_.layout_of(run), at);
    if constexpr (kind == OptimizerKind::one_bit_lamb)
      backend_.run(RunRows<ScaleBack>{{tensor(at.tensor)}, {m}, run.count});
    float* const v = map_.at(State::second_moment, run);
    if constexpr (!as_in_paper) {  // DeepSpeed only leaves out what never had a gradient
      backend_.run(RunRows<KeepWithinVariance>{{}, {m, v}, run.count});
    } else {
      const float bound = adam_bound(numbers_, optimizer.compression.freeze_step);
      signs_.keep_what_is_cut_off(
          run, m, v, bound, at, kind == OptimizerKind::one_bit_lamb ? tensor(at.tensor) : nullptr);
      backend_.run(RunRows<KeepWithinVariance>{{bound}, {m, v}, run.count});
    }
  }

  // 1-bit LAMB -----------------------------------------------------------------------------------

  static constexpr OneBitLambLayout lamb_layout =
      one_bit_lamb_layout(P::policy, GraphOf<P>::graph.parameters);

  OneBitLambTensor* tensor(std::int64_t i) {
    return map_.template optimizer<OneBitLambTensor>(
        lamb_layout.tensors + OneBitLambLayout::numbers * i, sizeof(OneBitLambTensor));
  }
  float* moving_variance(std::int64_t element, const Run& run) {
    return signs_.floats(lamb_layout.variance + 4 * element, round_up(run.count, 16));
  }
  float* momentum_before(std::int64_t element, const Run& run) {
    return signs_.floats(lamb_layout.before + 4 * element, round_up(run.count, 16));
  }

  /// LAMB without corrections while the trust ratio is averaged; then momentum alone follows the
  /// gradient, and the averaged ratio is scaled by how a variance that still moves has changed.
  template <class G>
  void one_bit_lamb(const Run& run, const G* gradient, const OptimizerNumbers& n,
                    const TensorCursor& at) {
    OneBitLambTensor* const own = tensor(at.tensor);
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
    float *const moving = moving_variance(at.element, run), *const before =
                                                                momentum_before(at.element, run);
    if (!sums_signs(n.t)) {
      signs_.copy(before, m, run);
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
    constexpr std::int64_t tensors = SignSums<P, B>::traffic.tensors;
    TensorCursor at;
    signs_.each_tensor([&](const Run& run) {
      const float* const m = map_.at(State::first_moment, run);
      signs_.copy(moving_variance(at.element, run), map_.at(State::second_moment, run), run);
      backend_.run(RunOnce<TakeRoot>{
          {tensor(at.tensor), signs_.squares(m, run.count), run.count, tensors, mean}});
      at.pass(signs_.layout_of(run));
    });
    for (std::int64_t i = 0; i < tensors; ++i)
      backend_.run(RunOnce<TakeMeanRoot>{{tensor(i), mean}});
  }

  B& backend_;
  Map& map_;
  SignSums<P, B> signs_;
  ZeroOneUpdate<P, B> zero_one_;
  OptimizerNumbers numbers_;
  TensorCursor at_;  // of the next tensor of an update
};

}  // namespace ctrain
