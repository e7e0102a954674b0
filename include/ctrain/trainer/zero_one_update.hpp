/// \file  0/1 Adam: steps in which ranks sum gradients, signs or nothing, and when which.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/math/compressed_programs.hpp>
#include <ctrain/backend/row_calls.hpp>
#include <ctrain/memory/sign_traffic.hpp>
#include <ctrain/trainer/memory_map.hpp>
#include <ctrain/trainer/sign_sums.hpp>

#include <cstdint>

namespace ctrain {

// Lu et al., arXiv 2202.06009, algorithm 1, and DeepSpeed's zoadam.py. The algorithm is silent
// where a run is not, and here: momentum is taken once it has seen the step's gradient, since it
// would never move otherwise; a variance step's gradient enters the variance first, and the
// momentum in full; decay acts on weights that all ranks know, so nobody sends it; momentum stays
// within what Adam could come to (adam_bound()), and what that cuts off a sum of signs is sent
// later. Nothing is corrected for bias, as in both.

/// Runs P's 0/1 Adam on one rank.
template <HasPolicy P, Backend B> class ZeroOneUpdate {
  static constexpr const auto& compression = P::policy.optimizer.compression;
  static constexpr Compat compat = P::policy.optimizer.compat;
  static constexpr bool sends = ScheduleOf<P>::sends_signs;
  static constexpr ZeroOneLayout own = zero_one_layout(P::policy, GraphOf<P>::graph.parameters);
  using Map = MemoryMap<P, ArenaOf<B>>;

 public:
  ZeroOneUpdate(B& backend, Map& map, SignSums<P, B>& signs)
      : backend_(backend), map_(map), signs_(signs) {}

  /// What ranks sum in the t-th update, which is next. A run that does not follow its own last
  /// update has come from a checkpoint, which is of a sync.
  Sums sums(std::int64_t t) {
    if (at_.step != t - 1) {
      at_ = {};
      while (at_.step < t - 1) at_ = zero_one_after(at_, compression, compat);
      at_ = zero_one_synced(at_);
    }
    step_ = zero_one_step(at_, compression, compat);
    if (!sends || step_ == ZeroOneStep::variance) return Sums::gradients;
    return step_ == ZeroOneStep::local ? Sums::nothing : Sums::signs;
  }
  bool is_synced() const { return !at_.is_local; }
  std::int64_t steps_to_sync() const { return zero_one_steps_to_sync(at_, compression, compat); }

  /// What all tensors of an update share. Weight decay is told apart by tensor.
  void begin(const OptimizerNumbers& numbers) { numbers_ = numbers; }
  /// An update has been made of all tensors.
  void end() {
    at_ = zero_one_after(at_, compression, compat, numbers_.learning_rate, numbers_.weight_decay);
  }

  // on a rank alone, and where nothing or gradients are summed -----------------------------------

  /// One tensor, `n` with its own decay. `at`: where it stands among all.
  template <class G>
  void run(const Run& run, const G* gradient, const OptimizerNumbers& n, const TensorCursor& at) {
    switch (step_) {
      case ZeroOneStep::variance:
        if (compat == Compat::deepspeed && n.t == 1) return;  // lost there
        backend_.run(RunRows<FollowMoments, G>{
            FollowMoments(n), {momentum(run), variance(run)}, run.count, gradient});
        return descend(run, n);
      case ZeroOneStep::signs:
        if (sends) return;  // take_means() has done it
        follow(run, gradient, n);
        return descend(run, n);
      case ZeroOneStep::local:
        if (sends && !at_.is_local) signs_.copy(last_sync(at, run), weight(run), run);
        return local(run, gradient, n, at);
      case ZeroOneStep::sync:
        if (sends) return;
        local(run, gradient, n, at);
        return take_own_mean(run, at);
    }
  }

  // where signs are summed -----------------------------------------------------------------------

  /// What a rank sends of one tensor joins what was lost of it before. DeepSpeed forgets that once,
  /// where it begins to sum something else.
  void begin_signs() {
    if (compat == Compat::deepspeed && numbers_.t == compression.freeze_step + 1)
      signs_.clear_errors();
  }
  template <class G>
  void add_to_error(const Run& run, const G* gradient, const OptimizerNumbers& n,
                    const TensorCursor& at) {
    if (step_ == ZeroOneStep::signs) {
      backend_.run(RunRows<AddGradientToError, G>{
          {n.gradient_scale}, {gathered(at, run)}, run.count, gradient});
      return;
    }
    follow(run, gradient, n);
    backend_.run(RunRows<GatherMomentum>{
        {{n, compat}}, {gathered(at, run), weight(run), momentum(run), variance(run)}, run.count});
  }

  /// Of one tensor: the mean gradient, or of what ranks have gathered.
  void take_mean(const Run& run, const OptimizerNumbers& n, const TensorCursor& at) {
    const SignLayout layout = signs_.layout_of(run);
    if (step_ == ZeroOneStep::signs) {
      float* const gradient = last_sync(at, run);  // no weights stand there yet
      OptimizerNumbers scaled = n;
      scaled.gradient_scale = 1;
      signs_.unpack(gradient, layout, at);
      follow(run, gradient, scaled);
      return descend(run, n);
    }
    const double kept = n.weight_decay > 0 ? this->kept() : 1;
    signs_.unpack(momentum(run), layout, at);
    if constexpr (compat == Compat::paper)
      signs_.keep_what_is_cut_off(run, momentum(run), variance(run), float(bound(n) * rates()), at);
    backend_.run(RunRows<TakeSync>{{ZeroOneRoot(n.epsilon, compat), bound(n), kept, rates()},
                                   {weight(run), momentum(run), variance(run),
                                    at_.is_local ? last_sync(at, run) : weight(run)},
                                   run.count});
  }

  /// A sync between two steps, of what ranks have gathered so far.
  void begin_sync() { step_ = ZeroOneStep::sync, between_steps_ = true; }
  void end_sync() { at_ = zero_one_synced(at_), between_steps_ = false; }
  /// That of one tensor on a rank alone.
  void take_own_mean(const Run& run, const TensorCursor& at) {
    if (rates() > 0)
      backend_.run(RunRows<TakeOwnMean>{
          {float(1 / rates())}, {momentum(run), gathered(at, run)}, run.count});
  }

 private:
  /// Sums since the last sync, with this step, if it is one. In DeepSpeed decay is a part of what
  /// ranks send.
  double rates() const { return at_.rates + (between_steps_ ? 0 : numbers_.learning_rate); }
  double kept() const {
    const double now = between_steps_ ? 0 : numbers_.learning_rate;
    return compat == Compat::paper ? at_.kept * (1 - now * numbers_.weight_decay) : 1;
  }
  float bound(const OptimizerNumbers& n) const {
    return compat == Compat::paper ? adam_bound(n, at_.variances) : KeepWithinVariance{}.bound;
  }

  template <class G> void follow(const Run& run, const G* gradient, const OptimizerNumbers& n) {
    backend_.run(RunRows<FollowWithin, G>{
        {FollowGradient(n), bound(n)}, {momentum(run), variance(run)}, run.count, gradient});
  }
  void descend(const Run& run, const OptimizerNumbers& n) {
    backend_.run(RunRows<DescendByRoot>{
        {{n, compat}}, {weight(run), momentum(run), variance(run)}, run.count});
  }
  template <class G>
  void local(const Run& run, const G* gradient, const OptimizerNumbers& n, const TensorCursor& at) {
    follow(run, gradient, n);
    backend_.run(RunRows<LocalStep>{
        {{n, compat}}, {gathered(at, run), weight(run), momentum(run), variance(run)}, run.count});
  }

  float* weight(const Run& run) { return map_.at(State::weight, run); }
  float* momentum(const Run& run) { return map_.at(State::first_moment, run); }
  float* variance(const Run& run) { return map_.at(State::second_moment, run); }
  /// What this rank will send, or, alone, takes the mean of.
  float* gathered(const TensorCursor& at, const Run& run) {
    return sends ? signs_.error(signs_.layout_of(run), at) : own_elements(at, run);
  }
  float* last_sync(const TensorCursor& at, const Run& run) { return own_elements(at, run); }
  float* own_elements(const TensorCursor& at, const Run& run) {
    return signs_.floats(own.elements + 4 * at.element, round_up(run.count, 16));
  }

  B& backend_;
  Map& map_;
  SignSums<P, B>& signs_;
  OptimizerNumbers numbers_;
  ZeroOneState at_;
  ZeroOneStep step_ = ZeroOneStep::variance;
  bool between_steps_ = false;  // a sync without a gradient
};

}  // namespace ctrain
