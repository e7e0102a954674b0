/// \file  One optimizer step of a model that streams, job by job of its proved table.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/comm/single.hpp>
#include <ctrain/backend/cpu/update.hpp>
#include <ctrain/backend/host/copy_link.hpp>
#include <ctrain/backend/math/loss_scale.hpp>
#include <ctrain/schedule/streaming_proof.hpp>
#include <ctrain/trainer/dispatch.hpp>
#include <ctrain/trainer/state_dict.hpp>
#include <ctrain/trainer/step.hpp>
#include <ctrain/trainer/stream_lanes.hpp>
#include <ctrain/trainer/stream_store.hpp>
#include <ctrain/trainer/streamed_map.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace ctrain {

/// What a run decides about a stream.
struct StreamOptions {
  std::filesystem::path directory = ".";  // of the file, where something goes to disk
  double down_bytes_per_second = 0;       // host to device; 0: as fast as memory
  double up_bytes_per_second = 0;
};

/// Executes the tables of P. The result is, bit for bit, that of the resident step of the same
/// policy without offload: the same kernels on the same values, and an update that depends on
/// nothing but an element's own state, its gradient and the exact norm.
template <HasPolicy P, Backend B> class StreamedStep {
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& graph = StreamOf<P>::graph;
  static constexpr const auto& units = StreamOf<P>::units;
  static constexpr const auto& plan = StreamOf<P>::plan;
  static constexpr int layers = P::policy.model.layers;
  static constexpr bool deferred = P::policy.offload.clipping == OffloadClipping::deferred;
  static constexpr Split split = split_of(P::policy);
  static constexpr bool keeps_on_device = P::policy.offload.activations == OffloadTo::none;
  using Map = StreamedMap<P>;

 public:
  StreamedStep(B& backend, const StreamOptions& options)
      : backend_(backend),
        store_(options.directory),
        dispatch_(backend, map_, nobody_),
        down_(options.down_bytes_per_second),
        up_(options.up_bytes_per_second),
        is_read_(std::size_t(policy.model.vocabulary)),
        compact_(std::size_t(policy.model.vocabulary)),
        lanes_([this](const StreamJob& job) { run(job); }) {
    rows_.reserve(std::size_t(most_word_rows(policy)));
    gradient_rows_.reserve(rows_.capacity());
    for (int i = 0; i < policy.batch.accumulation; ++i) batches_.push_back(map_.batch(i));
  }

  /// One optimizer step over up to `batch.accumulation` micro-batches of `feed`: as Step::train()
  /// has it. With deferred clipping the weights change at the next step, or at flush(). Throws
  /// Error when the loss or the gradient is not finite or a disk fails; what is on disk is then of
  /// no more use, and every later call throws.
  template <Feed F> StepResult train(F& feed, const StepNumbers& n) {
    result_ = {};
    numbers_ = n;
    training_ = true;
    if (!take(feed, policy.batch.accumulation)) return result_;
    square_sum_ = {};
    first_bad_.clear();
    walk<StreamPass::train>();
    pending_ = deferred && !result_.skipped;
    return result_;
  }

  /// Forward only, dropout off, on the next micro-batches of `feed`, which share one pass over the
  /// weights: as many as a step has. Calls see(i) for the i-th while predictions() and the like are
  /// its own. False if there is none.
  template <Feed F, class See> bool evaluate(F& feed, StepResult& result, See&& see) {
    flush();
    training_ = false;
    if (!take(feed, policy.batch.accumulation)) return false;
    result_ = result;
    see_ = see;
    walk<StreamPass::evaluate>();
    result = result_;
    return true;
  }

  /// Makes weights and moments those after the last step.
  void flush() {
    require_whole();
    if constexpr (deferred)
      if (pending_) walk<StreamPass::flush>();
    pending_ = false;
  }

  /// StreamStore::visit() of all states as they are after the last step. Where a write fails, every
  /// later call throws.
  template <StreamAccess Access, class F> void visit(F&& f) {
    flush();
    constexpr bool writes = Access == StreamAccess::change || Access == StreamAccess::replace;
    broken_ = writes;
    store_.template visit<Access>(f);
    broken_ = false;
    if constexpr (writes) weights_changed();
  }
  const StreamStore<P>& store() const { return store_; }
  const StreamLanes& lanes() const { return lanes_; }
  bytes bytes_down() const { return down_.carried(); }
  bytes bytes_up() const { return up_.carried(); }

  const LossScaleState& loss_scale() const { return loss_scale_; }
  void restore(const LossScaleState& scale) { loss_scale_ = scale; }
  /// One rank has nobody to differ from.
  bool is_synced() const { return true; }
  void sync() {}

  /// Of the micro-batch that see() is called for: (sentences), and (sentences, labels).
  std::span<const float> losses() { return of_head<float>(loss_op().outputs[0], 1); }
  std::span<const std::int32_t> predictions() {
    return of_head<std::int32_t>(loss_op().outputs[1], 1);
  }
  std::span<const float> logits() {
    return of_head<float>(loss_op().inputs[0], policy.model.labels);
  }

 private:
  static constexpr const Op& loss_op() {
    return graph.forward_head.ops.rows[graph.forward_head.ops.size - 1];
  }
  template <class T> std::span<const T> of_head(Operand x, int cols) {
    return {map_.template tensor<T>(x, layers), std::size_t(last_->sentences) * std::size_t(cols)};
  }

  template <StreamPass Pass> void walk() {
    static_assert(sizeof(typename CheckStream<P, Pass>::check));
    static constexpr const auto& table = StreamTableOf<P, Pass>::table;
    require_whole();
    broken_ = true;
    const std::span<const StreamJob> rows(table.rows, std::size_t(table.size));
    lanes_.walk(rows);  // nvcc 13 loses a semicolon after a braced argument here
    broken_ = false;
  }
  void require_whole() const {
    if (broken_)
      throw Error("step " + std::to_string(numbers_.step + 1), "an earlier step has failed",
                  "Resume from the last checkpoint, which is unharmed");
  }

  /// Where weights stay on the device: their copy there, from their home.
  void weights_changed() {
    if constexpr (homes_of(P::policy).weights_stay_on_device)
      store_.template visit<StreamAccess::read_weights>([&](int unit, int piece, auto& states) {
        if (unit == StreamUnits::word_table) return;
        const StreamUnit& u = units.of(unit);
        move(map_.weights(unit, unit) + 4 * piece * u.piece, raw(states[0]),
             4 * u.elements_of(piece));
      });
  }

  // the batch ------------------------------------------------------------------------------------

  /// The next micro-batches, with ids of words replaced by their row among those that are read.
  template <Feed F> bool take(F& feed, int most) {
    filled_ = feed.open(most);
    for (int turn = 0; turn < most; ++turn) {
      if (!exists(turn)) continue;
      std::uint32_t ordinal = 0;
      for (int i = 0; i < which(turn); ++i) ordinal += std::uint32_t(feed.sentences(i));
      feed.fill(which(turn), batches_[std::size_t(turn)], ordinal);
    }
    number_words();
    return filled_ > 0;
  }
  /// The micro-batch of a turn, of those that were opened; an epoch's last step may have fewer.
  int which(int turn) const { return training_ ? split.micro_batch(0, turn) : turn; }
  bool exists(int turn) const { return which(turn) < filled_; }
  void number_words() {
    std::fill(is_read_.begin(), is_read_.end(), char{0});
    is_read_[0] = 1;  // the padding row, which gets no gradient, is row 0 of any table
    each_token([&](std::int32_t& id) { is_read_[std::size_t(id)] = 1; });
    rows_.clear();
    for (std::int32_t id = 0; id < policy.model.vocabulary; ++id)
      if (is_read_[std::size_t(id)]) {
        compact_[std::size_t(id)] = std::int32_t(rows_.size());
        rows_.push_back(id);
      }
    each_token([&](std::int32_t& id) { id = compact_[std::size_t(id)]; });
    map_.use_word_rows(int(rows_.size()));
  }
  template <class F> void each_token(F&& f) {
    for (int turn = 0; turn < policy.batch.accumulation; ++turn)
      for (int r = 0; exists(turn) && r < batches_[std::size_t(turn)].rows; ++r)
        f(batches_[std::size_t(turn)].token_ids[r]);
  }

  // jobs -----------------------------------------------------------------------------------------

  void run(const StreamJob& j) {
    const bool exists = this->exists(j.micro);
    switch (j.task) {
      case StreamTask::compute:
        return exists ? compute(j) : nothing(j);
      case StreamTask::deliver:
        return deliver(j);
      case StreamTask::deliver_rows:
        return down_.copy(raw(map_.word_row_weights()), raw(store_.word_rows()), row_bytes());
      case StreamTask::restore:
        if (exists)
          down_.copy(map_.kept_in_region(j.region), store_.kept(j.layer, j.micro, j.slot),
                     plan.slot);
        return;
      case StreamTask::collect:
        return collect(j);
      case StreamTask::collect_rows:
        gradient_rows_.assign(rows_.begin(), rows_.end());
        return up_.copy(raw(store_.word_row_gradients()), raw(map_.word_row_gradients()),
                        row_bytes());
      case StreamTask::keep:
        if (exists)
          up_.copy(store_.kept(j.layer, j.micro, j.slot), map_.kept_in_region(j.region), plan.slot);
        return;
      case StreamTask::gather:
        return gather(j);
      case StreamTask::update:
        if (updates()) update(j);
        return;
      case StreamTask::norm:
        return norm(j);
      case StreamTask::norm_rows:
        return add_squares(store_.word_row_gradients(),
                           std::int64_t(rows_.size()) * policy.model.hidden);
      case StreamTask::judge:
        return judge();
      case StreamTask::read:
        return store_.read(j, j.all_states && (!deferred || pending_));
      case StreamTask::read_kept:
        if (exists) store_.read_kept(j);
        return;
      case StreamTask::write:
        if (updates()) store_.write(j);
        return;
      case StreamTask::write_gradient:
        return store_.write_gradient(j);
      case StreamTask::write_kept:
        if (exists) store_.write_kept(j);
        return;
    }
  }
  /// Before the first step that defers its update there is none to make, nor after a skipped one.
  bool updates() const { return deferred ? pending_ : !result_.skipped; }

  template <class T> static std::byte* raw(T* values) {
    return reinterpret_cast<std::byte*>(values);
  }
  bytes row_bytes() const {
    return bytes(rows_.size()) * policy.model.hidden * bytes(sizeof(float));
  }

  void deliver(const StreamJob& j) {
    const StreamUnit& u = units.of(j.unit);
    down_.copy(map_.weights(j.weights, j.unit) + 4 * j.piece * u.piece,
               raw(store_.state(State::weight, j.unit, j.piece, j.slot)),
               4 * u.elements_of(j.piece));
  }
  void collect(const StreamJob& j) {
    const StreamUnit& u = units.of(j.unit);
    const Region r = gradient_of_piece(graph.parameters, policy, u, j.piece);
    up_.copy(store_.collected(j.unit, j.piece, j.slot), map_.gradients(j.gradients) + r.offset,
             r.size);
  }
  void gather(const StreamJob& j) {
    const std::int64_t hidden = policy.model.hidden;
    const float* from = store_.state(State::weight, j.unit, j.piece, j.slot);
    each_row_in_piece(j, rows_, [&](std::int64_t i, std::int64_t row) {
      std::copy_n(from + row * hidden, hidden, store_.word_rows() + i * hidden);
    });
  }
  /// Calls f(index among `rows`, row of the piece) for those of the word table's `rows` in it.
  template <class F>
  static void each_row_in_piece(const StreamJob& j, const std::vector<std::int32_t>& rows, F&& f) {
    const StreamUnit& u = units.of(j.unit);
    const std::int64_t hidden = policy.model.hidden, first = j.piece * u.piece / hidden,
                       end = first + u.elements_of(j.piece) / hidden;
    auto at = std::lower_bound(rows.begin(), rows.end(), first);
    for (; at != rows.end() && *at < end; ++at) f(at - rows.begin(), *at - first);
  }

  // compute --------------------------------------------------------------------------------------

  void compute(const StreamJob& j) {
    last_ = &batches_[std::size_t(j.micro)];
    map_.use(j.weights, j.gradients, j.region, sum_of(j.micro));
    compute(j, {.batch = *last_,
                .numbers = &numbers_,
                .training = training_,
                .accumulate = j.micro > 0 && !split.layout_invariant,
                .loss_scale = &loss_scale_.scale});
    fold(j);
  }
  void compute(const StreamJob& j, const MicroBatch& m) {
    switch (j.turn) {
      case StreamTurn::embed:
        run(graph.forward_embedding, 0, m);
        hand_on({graph.stream}, 0, j.micro);
        return move(map_.embedding_slot(j.micro), map_.kept_by_embedding(j.region),
                    plan.embedding_slot);
      case StreamTurn::forward:
        return forward(j, m);
      case StreamTurn::head:
        return head(j, m);
      case StreamTurn::backward:
        return backward(j, m);
      case StreamTurn::embed_backward:
        take_over({graph.d_stream}, 0, j.micro);
        move(map_.kept_by_embedding(j.region), map_.embedding_slot(j.micro), plan.embedding_slot);
        return run(graph.backward_embedding, 0, m);
    }
  }
  void forward(const StreamJob& j, const MicroBatch& m) {
    if (j.first == 0) take_over({graph.stream}, j.layer, j.micro);
    for (int i = j.first; i < j.first + j.ops; ++i)
      dispatch_.run(graph.forward_block.ops[i], Segment::block, j.layer, m);
    if (j.first + j.ops < graph.forward_block.ops.size) return;
    hand_on({graph.stream, 1}, j.layer, j.micro);
    if (keeps_on_device && training_)
      move(map_.kept_on_device(j.layer, j.micro), map_.kept_in_region(j.region), plan.slot);
  }
  void head(const StreamJob& j, const MicroBatch& m) {
    take_over({graph.stream}, layers, j.micro);
    run(graph.forward_head, layers, m);
    if (!training_) {
      StepResult own;  // added up as the resident step's are
      count(own);
      result_ += own;
      return see_(j.micro);
    }
    count(result_);
    if (!std::isfinite(result_.loss_sum))
      throw_not_finite("the losses of micro-batch " + std::to_string(j.micro + 1));
    run(graph.backward_head, layers, m);
    hand_on({graph.d_stream}, layers, j.micro);
  }
  void backward(const StreamJob& j, const MicroBatch& m) {
    if (j.first == 0) {
      take_over({graph.d_stream}, j.layer, j.micro);
      if (keeps_on_device)
        move(map_.kept_in_region(j.region), map_.kept_on_device(j.layer, j.micro), plan.slot);
    }
    for (int i = j.first; i < j.first + j.ops; ++i)
      dispatch_.run(backward_op(graph, policy, i), Segment::block, j.layer, m);
    if (j.first + j.ops == backward_ops(graph, policy)) hand_on({graph.d_stream}, j.layer, j.micro);
  }
  /// Adds the micro-batch's losses, in the order of its sentences.
  void count(StepResult& result) {
    const BatchView& b = *last_;
    for (int s = 0; s < b.sentences; ++s) {
      const std::int64_t length = b.lengths[s], rows = b.first_row[s + 1] - b.first_row[s];
      result.tokens += length;
      result.attended += length * rows;
      if (b.labels[s] < 0) continue;
      result.loss_sum += losses()[std::size_t(s)];
      result.correct += predictions()[std::size_t(s)] == b.labels[s];
      ++result.sentences;
    }
    result.rows += b.rows;
    ++result.micro_batches;
  }
  void run(const Program& program, int layer, const MicroBatch& m) {
    for (const Op& op : program.ops) dispatch_.run(op, program.segment, layer, m);
  }

  /// The stream of a micro-batch, or its gradient, between one unit's workspace and the next.
  void take_over(Operand to, int layer, int micro) {
    move(raw(map_.template tensor<float>(to, layer)), map_.stream(micro), stream_bytes());
  }
  void hand_on(Operand from, int layer, int micro) {
    move(map_.stream(micro), raw(map_.template tensor<float>(from, layer)), stream_bytes());
  }
  bytes stream_bytes() const {
    return bytes{last_->rows} * policy.model.hidden * bytes(sizeof(float));
  }
  static void move(std::byte* to, const std::byte* from, bytes size) {
    std::memcpy(to, from, std::size_t(size));
  }

  // partial sums of gradients, as Step has them --------------------------------------------------

  static int sum_of(int turn) { return split.layout_invariant ? std::popcount(unsigned(turn)) : 0; }
  /// Adds whole nodes of the tree to their neighbours.
  void fold(const StreamJob& j) {
    if (!split.layout_invariant || j.gradients < 0) return;
    const int last = sum_of(j.micro), whole = std::countr_zero(unsigned(j.micro) + 1);
    for (int sum = last; sum > last - whole; --sum)
      each_stretch(j, sum, [&](float* from, bytes back, std::int64_t count) {
        backend_.run(CastBackward<float>{from - back / 4, from, int(count / 16), 16, true});
      });
  }
  /// A turn for which the epoch had no micro-batch left adds nothing.
  void nothing(const StreamJob& j) {
    if (!split.layout_invariant || j.gradients < 0) return;
    each_stretch(j, sum_of(j.micro), [&](float* from, bytes, std::int64_t count) {
      backend_.run(Clear{from, 4 * count});
    });
    fold(j);
  }
  /// Calls f(first element, bytes back to the sum before, elements) for what a unit's job sums.
  template <class F> void each_stretch(const StreamJob& j, int sum, F&& f) {
    f(reinterpret_cast<float*>(map_.gradients(j.gradients, sum)), plan.gradient_sum,
      units.of(j.unit).gradient / 4);
    if (j.turn == StreamTurn::embed_backward)
      f(map_.word_row_gradients(sum), plan.word_rows.size,
        std::int64_t(rows_.size()) * policy.model.hidden);
  }

  // gradients and update -------------------------------------------------------------------------

  /// Calls f(parameter, first element in the piece, elements, its gradient) for the part of each
  /// parameter that lies in a piece with these gradients.
  template <class F>
  static void each_gradient(const StreamJob& j, const std::byte* gradients, F&& f) {
    const StreamUnit& u = units.of(j.unit);
    const auto byte_of = [&](std::int64_t element) {
      return gradient_at(graph.parameters, policy, u, j.piece * u.piece + element);
    };
    each_part(graph.parameters, u, j.piece,
              [&](int row, std::int64_t, std::int64_t first, std::int64_t count) {
                const Parameter& p = graph.parameters.rows[row];
                typed(p, gradients + byte_of(first) - byte_of(0),
                      [&](const auto* gradient) { f(p, first, count, gradient); });
              });
  }
  /// f(pointer) with the gradient's own type.
  template <class F> static void typed(const Parameter& p, const std::byte* gradient, F&& f) {
    if (gradient_type(p, policy) == DType::fp32)
      f(reinterpret_cast<const float*>(gradient));
    else
      f(reinterpret_cast<const typename Map::BlockGradient*>(gradient));
  }

  template <class G> void add_squares(const G* values, std::int64_t count) {
    cpu::compute(SumOfSquaresOf<G>{&square_sum_, values, count}, host_threads);
  }
  void norm(const StreamJob& j) {
    each_gradient(j, store_.collected(j.unit, j.piece, j.slot),
                  [&](const Parameter& p, std::int64_t, std::int64_t count, const auto* gradient) {
                    add_squares(gradient, count);
                    if (square_sum_.not_finite != 0 && first_bad_.empty())
                      first_bad_ = "gradient of " + tensor_name(p, units.layer(j.unit));
                  });
  }
  /// As Step::decide().
  void judge() {
    const double mean = 1.0 / (double(result_.sentences) * double(loss_scale_.scale));
    result_.gradient_norm = std::sqrt(square_sum_.value()) * mean;
    constexpr const LossScale& by = P::policy.precision.loss_scale;
    result_.skipped = !std::isfinite(result_.gradient_norm);
    if (result_.skipped && an_overflow_is_final(loss_scale_, by))
      throw_not_finite(first_bad_.empty() ? "the gradient's norm" : first_bad_);
    loss_scale_ = loss_scale_after(loss_scale_, by, result_.skipped);
    const double bound = numbers_.clip / (result_.gradient_norm + 1e-6);
    gradient_scale_ = float(mean * (numbers_.clip > 0 ? std::fmin(1.0, bound) : 1.0));
    update_numbers_ = numbers_;
    updates_ = numbers_.step - loss_scale_.skipped_steps;
  }

  void update(const StreamJob& j) {
    const std::byte* gradients = j.unit == StreamUnits::word_table
                                     ? raw(gradient_of_words(j))
                                     : store_.gradients(j.unit, j.piece, j.slot);
    float* weights = store_.state(State::weight, j.unit, j.piece, j.slot);
    float* first_moment = store_.state(State::first_moment, j.unit, j.piece, j.slot);
    float* second_moment = store_.state(State::second_moment, j.unit, j.piece, j.slot);
    each_gradient(j, gradients,
                  [&]<class G>(const Parameter& p, std::int64_t first, std::int64_t count,
                               const G* gradient) {
                    const AdamWUpdateOf<G> call{
                        .weight = weights + first,
                        .first_moment = first_moment + first,
                        .second_moment = second_moment + first,
                        .gradient = gradient,
                        .count = count,
                        .kind = policy.optimizer.kind,
                        .learning_rate = float(update_numbers_.learning_rate),
                        .beta1 = policy.optimizer.beta1,
                        .beta2 = policy.optimizer.beta2,
                        .epsilon = policy.optimizer.epsilon,
                        .weight_decay =
                            decays(p, policy.optimizer.decay) ? update_numbers_.weight_decay : 0.0f,
                        .gradient_scale = gradient_scale_,
                        .t = updates_ + 1};
                    cpu::compute(call, host_threads);
                  });
  }
  /// A piece of the word table's gradient: zero but for the rows that a batch has read.
  float* gradient_of_words(const StreamJob& j) {
    const std::int64_t hidden = policy.model.hidden;
    float* gradient = store_.word_gradient();
    std::fill_n(gradient, units.of(j.unit).elements_of(j.piece), 0.0f);
    each_row_in_piece(j, gradient_rows_, [&](std::int64_t i, std::int64_t row) {
      std::copy_n(store_.word_row_gradients() + i * hidden, hidden, gradient + row * hidden);
    });
    return gradient;
  }

  [[noreturn]] void throw_not_finite(const std::string& what) const {
    throw Error("step " + std::to_string(numbers_.step + 1),
                "the loss is not a finite number; the first that is seen not to be: " + what,
                "Lower the learning rate or resume from the last checkpoint, which is unharmed");
  }

  static constexpr cpu::Threads host_threads{1};  // beside the device's own

  B& backend_;
  Map map_;
  StreamStore<P> store_;
  Single nobody_;
  Dispatch<P, B, Map> dispatch_;
  CopyLink down_, up_;
  std::vector<BatchView> batches_;
  const BatchView* last_ = nullptr;
  int filled_ = 0;
  std::vector<char> is_read_;                       // of each word: by this step
  std::vector<std::int32_t> compact_;               // its row among those
  std::vector<std::int32_t> rows_, gradient_rows_;  // words that are read; those with a gradient
  StepNumbers numbers_, update_numbers_;
  StepResult result_;
  std::function<void(int)> see_;  // what evaluate() was given
  ExactSum square_sum_;
  std::string first_bad_;  // gradient, in the order of backward
  float gradient_scale_ = 0;
  std::int64_t updates_ = 0;  // before the one to come
  LossScaleState loss_scale_ = first_loss_scale(P::policy.precision.loss_scale);
  bool training_ = true, pending_ = false, broken_ = false;
  StreamLanes lanes_;
};

}  // namespace ctrain
