/// \file  One optimizer step of one rank: the walk along its proved table, in the order it happens.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/comm/single.hpp>
#include <ctrain/backend/comm/transfer.hpp>
#include <ctrain/backend/row_calls.hpp>
#include <ctrain/core/clock.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/schedule/cost.hpp>
#include <ctrain/trainer/ahead.hpp>
#include <ctrain/trainer/decision.hpp>
#include <ctrain/trainer/dispatch.hpp>
#include <ctrain/trainer/faults.hpp>
#include <ctrain/trainer/host_view.hpp>
#include <ctrain/trainer/memory_map.hpp>
#include <ctrain/trainer/update.hpp>

#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// Where micro-batches come from; every rank has the same. `open(n)` takes the next n of the epoch,
/// or as many as there are, and says how many. Of those, sentences(i) is known, and fill() writes
/// the i-th one into the buffers; `first_ordinal` is the number of sentences in those before it.
template <class F>
concept Feed = requires(F& feed, BatchView& batch, int i, std::uint32_t first_ordinal) {
  { feed.open(i) } -> std::same_as<int>;
  { feed.sentences(i) } -> std::convertible_to<int>;
  feed.fill(i, batch, first_ordinal);
};

// the step ---------------------------------------------------------------------------------------

/// A communicator whose transfers can be recorded with a backend's calls; nobody's can.
template <class C>
concept IsRecorded = std::same_as<C, Single> || C::is_recorded;

/// Executes P's tables for one rank, on one arena, with one backend and one communicator.
template <HasPolicy P, Backend B, Communicator C = Single> class Step {
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& graph = GraphOf<P>::graph;
  static constexpr const auto& split = ScheduleOf<P>::split;
  static constexpr int layers = P::policy.model.layers;
  static constexpr int stage_layers = layers / split.grid.pipeline;
  static constexpr bool on_device = P::policy.device.kind == DeviceKind::cuda;
  static constexpr int most_held = batches_held(P::policy, split, 0);
  using Map = MemoryMap<P, ArenaOf<B>>;
  using Ops = Dispatch<P, B, Map, C>;

 public:
  /// Whether steps are recorded once and replayed, and the host need not look on. Compressed
  /// optimizers make other calls in later steps: those do wait for their host.
  static constexpr bool runs_ahead =
      on_device && Replays<B> && !sends_signs(P::policy.optimizer.kind) && IsRecorded<C>;

  Step(B& backend, Map& map, C& communicator)
      : backend_(backend),
        map_(map),
        communicator_(communicator),
        dispatch_(backend, map, communicator),
        host_(backend, map.arena(), map.plan().communication.offset),
        faults_(dispatch_, map, host_),
        update_(backend, map),
        ahead_(backend, map.input().size) {
    if constexpr (requires { backend.begin(policy, nullptr, 0); })
      backend.begin(policy, map.scratch(), map.plan().scratch.size);
    if constexpr (requires { communicator.serve(backend); }) {
      communicator.serve(backend);
      for (const Group group : {Group::data, Group::tensor}) {
        const auto [memory, size] = map.summand(group);
        communicator.lend(group, memory, size);
      }
    }
    if constexpr (runs_ahead && requires { communicator.before_aborting({}); })
      communicator.before_aborting([this] { ahead_.forget(); });
    for (int slot = 0; slot < batches_held(policy, split, map.at().pipeline); ++slot) {
      batches_[slot].here = map.batch(slot);
      batches_[slot].host = host_.batch_at(batches_[slot].here);
    }
    restore(first_loss_scale(P::policy.precision.loss_scale));
  }

  /// One optimizer step over up to data x accumulation micro-batches of `feed`: the gradient of the
  /// mean loss over all their sentences, clipped, then the update. No micro-batch left: changes
  /// nothing and returns micro_batches = 0. Throws Error, on every rank and before any weight has
  /// changed, when the loss or the gradient is not finite; the text names the step and the first
  /// bad tensor. Where a policy's loss scale can be lowered, such a gradient skips the step
  /// instead: result.skipped, and nothing has changed but the scale.
  template <Feed F> StepResult train(F& feed, const StepNumbers& n) {
    if (launch(feed, n) == 0) return {};
    return read_out().back();
  }

  /// The same without its result, and without waiting for it where a device runs ahead: a host that
  /// calls nothing else until it wants to know is never waited for either. Returns the number of
  /// micro-batches; a step that fails throws from a later call, and changes nothing, nor do those
  /// after it. Of several ranks, all launch, read out and record() after the same steps.
  template <Feed F> int launch(F& feed, const StepNumbers& n) {
    opened_ = feed.open(split.grid.data * split.micro_batches);
    if (opened_ == 0) return 0;
    if constexpr (runs_ahead) {
      launch_ahead(feed, n);
    } else {
      tell(n);
      walk_training(feed);
      results_.push_back(total_);
    }
    return opened_;
  }
  /// What came of all steps launched since the last time, in order; until the next time.
  std::span<const StepResult> read_out() {
    catch_up();
    read_.clear();
    std::swap(read_, results_);
    return read_;
  }
  /// Waits for what was launched. Throws the Error of the first step that failed.
  void catch_up() {
    if constexpr (runs_ahead) {
      if (ahead_.count() == 0) return;
      backend_.synchronize();
      for (int i = 0; i < ahead_.count(); ++i) {
        if (ahead_.state(i)->failed != 0) look_again(i);
        results_.push_back(ahead_.state(i)->total);
        loss_scale_ = ahead_.state(i)->loss_scale;
      }
      ahead_.clear();
    }
  }

  // 0/1 Adam takes steps in which every data rank goes on alone. Which steps those are is a
  // function of the number of updates, so all ranks agree on it.

  /// Whether all data ranks have the same weights.
  bool is_synced() const { return update_.is_synced(); }
  /// Throws Error where they have not: what would be evaluated or saved is nobody's model.
  void require_synced(const char* place) const {
    if (is_synced()) return;
    const std::int64_t more = update_.steps_to_sync(), done = numbers_.step + 1;
    throw Error(
        std::string(place) + " after step " + std::to_string(done),
        "data ranks have taken local steps of 0/1 Adam and have different weights until the "
        "next sync, which ends step " +
            std::to_string(done + more),
        "Wait for " + std::to_string(more) + " more, or call step().sync() first");
  }
  /// Ends local steps early, for an evaluation or at the end of a run: what data ranks have
  /// gathered is summed now, as signs, and all go on from there. Nothing happens where they are
  /// synced.
  void sync() {
    if constexpr (P::policy.optimizer.kind == OptimizerKind::zero_one_adam) {
      if (is_synced()) return;
      sums_ = Sums::signs;
      total_ = {}, is_decided_ = true;
      update_.begin_sync();
      if constexpr (ScheduleOf<P>::has_local_steps) {
        NoFeed none;
        walk(ScheduleOf<P>::sync::table(communicator_.rank()), none);
      }
      update_.end_sync();
      prepare_weights();
    }
  }

  /// Forward only, dropout off, on the next micro-batch of `feed` for each data rank; false if
  /// there is none. `result` gets what this rank has seen, which is nothing on all but the ranks
  /// for which counts() is true. Throws Error, on every rank, where they are not synced.
  template <Feed F> bool evaluate(F& feed, StepResult& result) {
    catch_up();
    require_synced("an evaluation");
    opened_ = feed.open(split.grid.data);
    if (opened_ == 0) return false;
    tell({});
    begin(false);
    walk(ScheduleOf<P>::evaluation::table(communicator_.rank()), feed);
    result += own_;
    return true;
  }

  /// What a run goes on with besides its tensors.
  LossScaleState loss_scale() {
    catch_up();
    return loss_scale_;
  }
  void restore(const LossScaleState& scale) {
    catch_up();
    loss_scale_ = scale;
    write_state({.loss_scale = scale});
  }

  /// From the next step on, `spans` gets when each event of its walk happened: what
  /// render_trace() shows of all ranks. On a device, work happens when it is launched. nullptr: no
  /// longer.
  void record(std::vector<Span>* spans) { spans_ = spans; }

  /// Of the micro-batches opened last, the one that this rank has evaluated; -1: none.
  int evaluated() const { return map_.at().data < opened_ && counts() ? map_.at().data : -1; }
  /// Whether this rank sees losses: the first tensor rank of the last stage.
  bool counts() const { return map_.at().tensor == 0 && has_head(); }

  /// Refreshes the copies that products read; needed after every change of a weight but an update's
  /// own.
  void prepare_weights() {
    if constexpr (copies_of_weights(P::policy) > 0)
      for (int layer = first_layer(); layer < first_layer() + stage_layers; ++layer)
        for (const Op& op : graph.forward_block.ops)
          if (op.kind == OpKind::linear) backend_.run(map_.preparation(op, layer));
  }

  /// The micro-batch that was evaluated last, for a host to read, and what the head made of it.
  const BatchView& batch() const { return batches_[0].host; }
  HostValues<float> losses() { return result<float>(loss_op().outputs[0], sentences()); }
  HostValues<std::int32_t> predictions() {
    return result<std::int32_t>(loss_op().outputs[1], sentences());
  }
  /// (sentences, labels); after evaluate() only, since backward reuses the memory.
  HostValues<float> logits() {
    return result<float>(loss_op().inputs[0], std::int64_t{sentences()} * policy.model.labels);
  }
  HostView<B>& host() { return host_; }

 private:
  /// One micro-batch in flight, where the backend and where the host reads it.
  struct InFlight {
    BatchView here, host;
  };
  /// A sync takes no micro-batches, and a staged step has taken them.
  struct NoFeed {
    int open(int) { return 0; }
    int sentences(int) const { return 0; }
    void fill(int, BatchView&, std::uint32_t) const {}
  };

  // the walk -------------------------------------------------------------------------------------

  void tell(const StepNumbers& numbers) {
    numbers_ = numbers;
    *host_.at(map_.numbers()) = numbers;
    host_.push({map_.input().end() - Split::numbers, Split::numbers});
  }
  void begin(bool training) {
    training_ = training;
    own_ = total_ = {};
    is_decided_ = false;
    fault_.clear();
    backend_.run(Clear{own_record(), sizeof(Record)});
    map_.view_resident_weights();
  }

  template <Feed F> void walk_training(F& feed) {
    begin(true);
    sums_ = update_.sums(updates() + 1);
    if (sums_ == Sums::signs)
      walk(ScheduleOf<P>::sign_training::table(communicator_.rank()), feed);
    else if (sums_ == Sums::nothing)
      walk(ScheduleOf<P>::local_training::table(communicator_.rank()), feed);
    else
      walk(ScheduleOf<P>::training::table(communicator_.rank()), feed);
    if (!total_.skipped && !Update<P, B>::prepares_weights) prepare_weights();
  }

  template <int Capacity, Feed F> void walk(const StageTable<Capacity>& table, F& feed) {
    for (const Section& section : table.sections)
      for (int iteration = 0; iteration < section.repeats; ++iteration)
        for (int i = section.first; i < section.first + section.size; ++i) {
          const Event& e = table.events.rows[i];
          const int turn = e.micro + iteration;
          const double begin = spans_ != nullptr ? steady_seconds() : 0;
          if (e.kind == EventKind::compute) compute(e, turn, feed);
          if (e.starts_transfer()) tickets_[i] = start(e, i, turn);
          if (e.kind == EventKind::wait) wait(table.events.rows[e.awaited], tickets_[e.awaited]);
          // acquire and release are proved, and there is nothing left to do
          if (spans_ != nullptr) note(table, i, iteration, begin);
        }
  }

  /// What began then and has just ended: a compute event, or a wait, which tells of its transfer.
  template <int Capacity>
  void note(const StageTable<Capacity>& table, int index, int iteration, double begin) {
    const Event& now = table.events.rows[index];
    const bool waited = now.kind == EventKind::wait;
    if (!waited && now.kind != EventKind::compute) return;
    const int of = waited ? now.awaited : index, stage = map_.at().pipeline;
    const Event& e = table.events.rows[of];
    const TimeSpan when = waited ? waited_for(begin) : TimeSpan{begin, steady_seconds()};
    spans_->push_back({stage, of, lane_of(e, stage), e.micro + iteration, when.begin, when.end});
  }
  /// When a transfer happened whose wait began then, as far as the communicator knows.
  TimeSpan waited_for(double begin) const {
    if constexpr (requires { communicator_.waited_for(); }) return communicator_.waited_for();
    return {begin, steady_seconds()};
  }

  template <Feed F> void compute(const Event& e, int turn, F& feed) {
    switch (e.work) {
      case Work::forward:
        return forward(e, turn, feed);
      case Work::backward:
      case Work::backward_input:
      case Work::backward_weight:
        return backward(e, turn);
      case Work::clear:
        return clear(e);
      case Work::accumulate:
        return accumulate(e, turn);
      case Work::norm:
        return norm(e);
      case Work::update:
        return update(e);
      case Work::compress:
        return compress(e);
      case Work::serve:
        return serve();
    }
  }

  // steps that nobody looks at -------------------------------------------------------------------

  template <Feed F> void launch_ahead(F& feed, const StepNumbers& n) {
    if (ahead_.is_full()) catch_up();
    std::byte* const staged = ahead_.input(ahead_.count());
    for (int turn = 0; turn < split.micro_batches; ++turn) {
      static constexpr BatchLayout layout = batch_layout(P::policy);
      BatchView batch = batch_at(staged + turn * layout.size, layout);
      if (split.micro_batch(map_.at().data, turn) < opened_)
        fill(feed, split.micro_batch(map_.at().data, turn), batch, true);
      fill_up(batch, policy.batch);
    }
    *ahead_.numbers(ahead_.count()) = n;
    backend_.write_later(map_.arena().base() + map_.input().offset, staged, map_.input().size);
    const auto walk_it = [&] { walk_staged(false); };
    if (spans_ != nullptr)
      walk_it();
    else
      ahead_.run(walk_it);
    backend_.read_later(reinterpret_cast<std::byte*>(ahead_.state(ahead_.count())), map_.state(),
                        sizeof(StepState));
    if constexpr (requires { communicator_.gave_step(n.step); }) communicator_.gave_step(n.step);
    ahead_.advance();
  }
  /// All micro-batches of the step stand in memory, each filled up.
  void walk_staged(bool is_watched) {
    struct Ends {
      Step& step;
      ~Ends() { step.is_watched_ = true, step.is_staged_ = false; }
    } const ends{*this};
    is_watched_ = is_watched, is_staged_ = true;
    for (InFlight& batch : batches_)
      batch.here.rows = policy.batch.rows(), batch.here.sentences = policy.batch.sentence_bound();
    NoFeed none;
    walk_training(none);
  }
  /// A step that failed runs again, watched: it stops where the first bad tensor can be seen.
  void look_again(int failed) {
    const LossScaleState scale = ahead_.state(failed)->loss_scale;
    numbers_ = *ahead_.numbers(failed);
    ahead_.clear();
    backend_.write_later(map_.arena().base() + map_.input().offset, ahead_.input(failed),
                         map_.input().size);
    backend_.synchronize();
    restore(scale);
    walk_staged(true);
    faults_.raise(numbers_.step, "none when it was run again");
  }

  // forward and backward -------------------------------------------------------------------------

  template <Feed F> void forward(const Event& e, int turn, F& feed) {
    if (is_absent(turn)) return;
    map_.view_micro_batch(e.slot);
    if (e.first == map_.layout().first && !is_staged_) take(feed, turn, held(e, turn));
    view_weights(e);
    const MicroBatch m = micro_batch(e, turn);
    for (int unit = e.first; unit < e.first + e.count; ++unit) run(forward_of(unit), unit, m);
    if (has_head() && e.first + e.count == layers + 2) count(m);
  }

  void backward(const Event& e, int turn) {
    if (is_absent(turn)) return nothing_backward(e, turn);
    map_.view_micro_batch(e.slot);
    view_weights(e);
    view_gradients(e, turn);
    MicroBatch m = micro_batch(e, turn);
    m.accumulate = adds(turn);
    if (e.work != Work::backward_weight) stream_comes_back(e, turn, m);
    for (int unit = e.first + e.count - 1; unit >= e.first; --unit) {
      if (is_block(unit) && policy.recompute == Recompute::full)
        run(graph.recompute_block, unit, m);
      run(backward_of(unit), unit, m, e.work);
    }
    if (e.work != Work::backward_weight) stream_goes_back(e, turn, m);
    if (e.work != Work::backward_input) fold_sums(e, turn);
  }

  /// A turn for which the epoch had no micro-batch left adds nothing.
  void nothing_backward(const Event& e, int turn) {
    if (e.work == Work::backward_input || adds(turn)) return;
    if (e.to.store == Store::reducing) {
      float* const gradients = map_.reducing(bucket_of(e), e.to.index);
      backend_.run(Clear{gradients, 4 * map_.elements(bucket_of(e))});
    } else {
      backend_.run(Clear{map_.unit_gradients(e.first, e.count, sum_of(turn)),
                         4 * map_.units_size(e.first, e.count)});
      fold_sums(e, turn);
    }
  }

  void run(const Program& program, int unit, const MicroBatch& m, Work work = Work::backward) {
    const int layer = unit == 0 ? 0 : unit - 1, size = program.ops.size;
    for (int i = 0; i < size; ++i) {
      const Op& op = program.ops[i];
      const bool of_weights = op.kind == OpKind::linear_backward_weight;
      if (work != Work::backward && of_weights != (work == Work::backward_weight)) continue;
      if (i + 1 < size && dispatch_.run_both(op, program.ops[i + 1], layer, m))
        ++i;
      else
        dispatch_.run(op, program.segment, layer, m);
    }
  }

  void view_weights(const Event& e) {
    if (e.from.store == Store::gathered) map_.view_gathered_weights(bucket_of(e), e.from.index);
  }
  void view_gradients(const Event& e, int turn) {
    if (e.to.store == Store::reducing)
      map_.view_reducing_gradients(bucket_of(e), e.to.index);
    else
      map_.view_resident_gradients(sum_of(turn));
  }

  // streams between stages: forward's stand in the activations themselves ------------------------

  float* stream_before() { return map_.template tensor<float>({graph.stream}, first_layer()); }
  float* stream_after() {
    return map_.template tensor<float>({graph.stream, 1}, first_layer() + stage_layers - 1);
  }
  void stream_comes_back(const Event& e, int turn, const MicroBatch& m) {
    if (has_head() || e.first + e.count < map_.layout().first + map_.layout().units) return;
    copy(map_.template tensor<float>({graph.d_stream}, first_layer()),
         map_.d_stream_in(turn % Split::d_stream_buffers), stream_elements(m));
  }
  void stream_goes_back(const Event& e, int turn, const MicroBatch& m) {
    if (has_embedding() || e.first > map_.layout().first) return;
    copy(map_.d_stream_out(turn % Split::d_stream_buffers),
         map_.template tensor<float>({graph.d_stream}, first_layer()), stream_elements(m));
  }
  static std::int64_t stream_elements(const MicroBatch& m) {
    const Operand stream{graph.stream};
    return std::int64_t{Ops::rows(stream, m)} * Ops::cols(stream);
  }

  // sums of gradients ----------------------------------------------------------------------------

  /// Whether a turn's gradients are added to those before. Otherwise they replace what stands
  /// there.
  static bool adds(int turn) { return split.zero.stage < 2 && !split.layout_invariant && turn > 0; }
  /// Where a turn's gradients go: the next free of the unfinished nodes of the tree.
  static int sum_of(int turn) { return split.layout_invariant ? std::popcount(unsigned(turn)) : 0; }
  /// After turn i, as many nodes are whole as i + 1 can be halved; each is added to its neighbour.
  template <class At> void fold(int turn, std::int64_t count, At&& at) {
    if (!split.layout_invariant) return;
    const int last = sum_of(turn), whole = std::countr_zero(unsigned(turn) + 1);
    for (int sum = last; sum > last - whole; --sum) add(at(sum - 1), at(sum), count);
  }
  void fold_sums(const Event& e, int turn) {
    if (split.zero.stage < 2)
      fold(turn, map_.units_size(e.first, e.count),
           [&](int sum) { return map_.unit_gradients(e.first, e.count, sum); });
  }

  /// A buffer's gaps between tensors and at its end take part in sums and norms.
  void clear(const Event& e) {
    if (e.to.store != Store::reducing) return;  // kept sums are replaced by the first turn
    float* const buffer = map_.reducing(e.first, e.to.index);
    std::int64_t at = 0;
    const auto clear_to = [&](std::int64_t end) {
      if (end > at) backend_.run(Clear{buffer + at, 4 * (end - at)});
    };
    map_.each_run(e.first, false, [&](const Run& run) {
      const std::int64_t begin = run.whole - map_.layout().start_of(e.first);
      clear_to(begin);
      at = begin + run.count;
    });
    clear_to(map_.elements(e.first));
  }
  void accumulate(const Event& e, int turn) {
    const std::int64_t count = map_.shard_elements(e.first);
    const float* const reduced = map_.reducing(e.first, e.from.index) + map_.at().data * count;
    float* const shard = map_.gradient_shard(e.first, sum_of(turn));
    if (turn == 0 || split.layout_invariant)
      copy(shard, reduced, count);
    else
      add(shard, reduced, count);
    fold(turn, count, [&](int sum) { return map_.gradient_shard(e.first, sum); });
  }

  void copy(float* to, const float* from, std::int64_t count) {
    backend_.run(CastForward<float>{to, from, int(count / 16), 16});
  }
  void add(float* to, const float* from, std::int64_t count) {
    backend_.run(CastBackward<float>{to, from, int(count / 16), 16, true});
  }

  // the update -----------------------------------------------------------------------------------

  /// This rank's part of the squares, each gradient counted by one rank.
  void norm(const Event& e) {
    map_.view_resident_gradients(0);
    if (split.zero.stage > 0 || map_.at().data == 0 || has_own_gradients())
      for (int b = e.first; b < e.first + e.count; ++b)
        each_own_run(b, [&](const Run& run, const auto* gradient) {
          using G = std::remove_cvref_t<decltype(*gradient)>;
          if (counts_squares(run))
            backend_.run(SumOfSquaresOf<G>{&own_record()->squares, gradient, run.count});
        });
  }
  Record* own_record() { return map_.record(communicator_.rank()); }
  /// What tensor ranks have in common counts once.
  bool counts_squares(const Run& run) const {
    return speaks_for(graph.parameters.rows[run.parameter], map_.at().tensor);
  }

  void update(const Event& e) {
    if (sums_ == Sums::signs && !is_skipped()) update_.take_means();
    if (e.from.store == Store::means || is_skipped()) return;
    update_.begin_tensors();
    for (int b = e.first; b < e.first + e.count; ++b)
      each_own_run(b, [&](const Run& run, const auto* gradient) { update_.run(run, gradient); });
    update_.end_tensors();
  }

  /// What goes out once all ranks' records say that there is an update, or between two of them.
  void compress(const Event& e) {
    if (e.from.store == Store::nothing) return update_.compress_gathered();
    if (is_skipped()) return;
    update_.compress([&](auto&& visit) {
      for (int b = e.first; b < e.first + e.count; ++b) each_own_run(b, visit);
    });
  }
  void serve() {
    if (!total_.skipped) update_.serve();
  }
  /// Whether data ranks do not sum their gradients in this step.
  bool has_own_gradients() const { return sums_ != Sums::gradients; }
  bool is_skipped() {
    if (!is_decided_) decide();
    return total_.skipped;
  }

  /// Decides in memory, from all ranks' records, whether there is an update and with which numbers.
  void decide() {
    backend_.run(RunOnce<DecideStep>{{.state = map_.state(),
                                      .numbers = map_.numbers(),
                                      .records = map_.record(0),
                                      .ranks = split.grid.ranks(),
                                      .by = policy.precision.loss_scale,
                                      .optimizer = {.kind = policy.optimizer.kind,
                                                    .beta1 = as_written(policy.optimizer.beta1),
                                                    .beta2 = as_written(policy.optimizer.beta2),
                                                    .epsilon = policy.optimizer.epsilon},
                                      .compat = policy.optimizer.compat,
                                      .own_gradients = has_own_gradients() ? split.grid.data : 0}});
    is_decided_ = true;
    if (!is_watched_) return;
    const StepState state = host_.read(map_.state(), 1)[0];
    if (state.failed != 0) {
      restore(state.loss_scale);
      faults_.raise(numbers_.step, fault_.empty() ? faults_.first_bad_gradient() : fault_);
    }
    total_ = state.total;
    loss_scale_ = state.loss_scale;
    update_.begin({.learning_rate = float(numbers_.learning_rate),
                   .beta1 = policy.optimizer.beta1,
                   .beta2 = policy.optimizer.beta2,
                   .epsilon = policy.optimizer.epsilon,
                   .weight_decay = numbers_.weight_decay,
                   .gradient_scale = state.plain.adam.gradient_scale,
                   .t = updates() + 1});
  }
  void write_state(const StepState& state) {
    *host_.at(map_.state()) = state;
    host_.push({map_.input().end(), sizeof state});
  }

  /// Calls visit(run, its gradient in the type in which it waits) for what this rank updates.
  template <class Visit> void each_own_run(int bucket, Visit&& visit) {
    map_.each_run(bucket, split.zero.stage >= 1, [&](const Run& run) {
      using Narrow = typename Map::BlockGradient;
      if (gradient_type(graph.parameters.rows[run.parameter], policy) == DType::fp32)
        visit(run, static_cast<const float*>(map_.template gradient<float>(run)));
      else
        visit(run, static_cast<const Narrow*>(map_.template gradient<Narrow>(run)));
    });
  }

  // transfers ------------------------------------------------------------------------------------

  int start(const Event& e, int index, int turn) {
    Transfer t{.kind = e.kind,
               .collective = e.collective,
               .group = e.group,
               .data = place(e),
               .size = e.size,
               .name = {index, turn, text_of(e)}};
    if (e.kind != EventKind::collective) {
      Coordinates peer = map_.at();
      peer.pipeline = e.peer;
      t.peer = split.grid.rank(peer);
    }
    if constexpr (requires { backend_.stream(); }) backend_.stream();  // all calls are on their way
    return communicator_.start(t);
  }
  void wait(const Event& e, int ticket) {
    communicator_.wait(ticket);
    if (is_sum_of_norms(e)) move_norms(e, true);
  }
  static constexpr bool is_sum_of_norms(const Event& e) {
    return e.kind == EventKind::collective && e.group == Group::tensor;
  }
  /// A bucket's gradients of norms come side by side, to be summed over the tensor ranks, or go
  /// back to their places.
  void move_norms(const Event& e, bool back) {
    float* const bucket = e.to.store == Store::reducing ? map_.reducing(e.first, e.to.index)
                                                        : map_.gradients(e.first);
    float* side_by_side = map_.norms();
    map_.each_run(e.first, false, [&](const Run& run) {
      if (!norms_rows(graph.parameters.rows[run.parameter])) return;
      float* const place = bucket + run.whole - map_.layout().start_of(e.first);
      copy(back ? place : side_by_side, back ? side_by_side : place, run.count);
      side_by_side += run.count;
    });
  }

  /// Where a transfer's payload stands. A gather starts from this rank's shard.
  void* place(const Event& e) {
    if (is_sum_of_norms(e)) {
      move_norms(e, false);
      return map_.norms();
    }
    const Place p = e.to.store == Store::nothing ? e.from : e.to;
    switch (p.store) {
      case Store::parameters:
        return map_.parameters(e.first);
      case Store::gradients:
        return map_.gradients(e.first);
      case Store::reducing:
        return map_.reducing(e.first, p.index);
      case Store::gathered: {
        float* const all = map_.gathered(e.first, p.index);
        const std::int64_t count = map_.shard_elements(e.first);
        copy(all + map_.at().data * count, map_.parameter_shard(e.first), count);
        return all;
      }
      case Store::norms:
        return map_.record(0);
      case Store::stream_in:
        map_.view_micro_batch(p.index);
        return stream_before();
      case Store::stream_out:
        map_.view_micro_batch(p.index);
        return stream_after();
      case Store::d_stream_in:
        return map_.d_stream_in(p.index);
      case Store::signs:
        return update_.signs().signs_in_flight();
      case Store::means:
        return update_.signs().means_in_flight();
      default:
        return map_.d_stream_out(p.index);
    }
  }
  static constexpr const char* text_of(const Event& e) {
    if (is_sum_of_norms(e)) return "all_reduce of gradients of norms";
    switch (e.to.store == Store::nothing ? e.from.store : e.to.store) {
      case Store::parameters:
        return "all_gather of updated parameters";
      case Store::gathered:
        return "all_gather of parameters";
      case Store::gradients:
        return e.collective == Collective::all_reduce ? "all_reduce of gradients"
                                                      : "reduce_scatter of gradients";
      case Store::reducing:
        return "reduce_scatter of gradients";
      case Store::norms:
        return "all_gather of the ranks' records";
      case Store::stream_in:
        return "receive of the stream";
      case Store::stream_out:
        return "send of the stream";
      case Store::d_stream_in:
        return "receive of the stream's gradient";
      case Store::signs:
        return "all_to_all of signs";
      case Store::means:
        return "all_gather of their means' signs";
      default:
        return "send of the stream's gradient";
    }
  }

  // micro-batches --------------------------------------------------------------------------------

  int which(int turn) const {
    return training_ ? split.micro_batch(map_.at().data, turn) : map_.at().data;
  }
  bool is_absent(int turn) const { return !is_staged_ && which(turn) >= opened_; }
  /// Where a turn's micro-batch stands.
  static int held(const Event& e, int turn) { return on_device ? turn : e.slot; }

  template <Feed F> static void fill(F& feed, int which, BatchView& batch, bool counts_before) {
    std::uint32_t first_ordinal = 0;
    for (int i = 0; counts_before && i < which; ++i)
      first_ordinal += std::uint32_t(feed.sentences(i));
    feed.fill(which, batch, first_ordinal);
  }
  /// The feed's micro-batch of a turn, brought to where the backend reads it.
  template <Feed F> void take(F& feed, int turn, int held) {
    InFlight& batch = batches_[held];
    fill(feed, which(turn), batch.host, training_);
    constexpr bytes size = batch_layout(P::policy).size;
    host_.push({map_.input().offset + held * size, size});
    batch.here.rows = batch.host.rows;
    batch.here.sentences = batch.host.sentences;
  }
  MicroBatch micro_batch(const Event& e, int turn) const {
    return {.batch = batches_[held(e, turn)].here,
            .numbers = map_.numbers(),
            .training = training_,
            .loss_scale = &map_.state()->loss_scale.scale};
  }
  /// Updates done before this step.
  std::int64_t updates() const { return numbers_.step - loss_scale_.skipped_steps; }

  /// Adds the micro-batch's losses to this rank's.
  void count(const MicroBatch& m) {
    if (!counts()) return;
    backend_.run(RunOnce<CountLosses>{
        {.to = &own_record()->result,
         .batch = m.batch,
         .losses = map_.template tensor<float>(loss_op().outputs[0], layers),
         .predictions = map_.template tensor<std::int32_t>(loss_op().outputs[1], layers)}});
    if (!is_watched_) return;
    own_ = host_.read(&own_record()->result, 1)[0];
    if (training_ && !std::isfinite(own_.loss_sum)) loss_is_not_finite(m);
  }
  /// A rank alone says so at once; of several, all come to the norm and see it there.
  void loss_is_not_finite(const MicroBatch& m) {
    if (!fault_.empty()) return;
    const bool all_here = split.grid.ranks() == split.grid.data && split.zero.stage < 3;
    fault_ = all_here ? faults_.first_bad_activation(m) : "the losses of a micro-batch";
    if (split.grid.ranks() == 1) faults_.raise(numbers_.step, fault_);
    fault_ += " on rank " + std::to_string(communicator_.rank());
  }

  // small facts ----------------------------------------------------------------------------------

  static constexpr bool is_block(int unit) { return unit >= 1 && unit <= layers; }
  static constexpr const Program& forward_of(int unit) {
    return unit == 0        ? graph.forward_embedding
           : is_block(unit) ? graph.forward_block
                            : graph.forward_head;
  }
  static constexpr const Program& backward_of(int unit) {
    return unit == 0        ? graph.backward_embedding
           : is_block(unit) ? graph.backward_block
                            : graph.backward_head;
  }
  static constexpr const Op& loss_op() {
    return graph.forward_head.ops.rows[graph.forward_head.ops.size - 1];
  }
  int bucket_of(const Event& e) const { return map_.layout().bucket_of(e.first); }
  bool has_embedding() const { return map_.at().pipeline == 0; }
  bool has_head() const { return map_.at().pipeline + 1 == split.grid.pipeline; }
  int first_layer() const { return map_.at().pipeline * stage_layers; }
  int sentences() const { return batches_[0].host.sentences; }
  template <class T> HostValues<T> result(Operand x, std::int64_t count) {
    return host_.read(map_.template tensor<T>(x, layers), count);
  }

  B& backend_;
  Map& map_;
  C& communicator_;
  Ops dispatch_;
  HostView<B> host_;
  Faults<P, B, C> faults_;
  Update<P, B> update_;
  StepsAhead<B> ahead_;
  InFlight batches_[most_held];
  int tickets_[ScheduleOf<P>::capacity]{};

  StepNumbers numbers_;
  bool training_ = true;
  bool is_watched_ = true;                  // the host looks at each loss and decision
  bool is_staged_ = false;                  // all micro-batches are in memory, filled up
  Sums sums_ = Sums::gradients;             // of this step
  int opened_ = 0;                          // micro-batches of this step, all ranks
  StepResult own_, total_;                  // of this rank, of all
  bool is_decided_ = false;                 // whether and with what this step updates
  std::string fault_;                       // what was not finite first
  LossScaleState loss_scale_;               // after the last step that a host has seen
  std::vector<StepResult> results_, read_;  // of steps launched since the last read-out, and then
  std::vector<Span>* spans_ = nullptr;      // of the walk that is recorded
};

}  // namespace ctrain
