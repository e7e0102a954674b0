/// \file  One optimizer step of a model that streams, job by job of its proved table.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/comm/single.hpp>
#include <ctrain/backend/cpu/update.hpp>
#include <ctrain/backend/host/copy_link.hpp>
#include <ctrain/schedule/streaming_proof.hpp>
#include <ctrain/trainer/dispatch.hpp>
#include <ctrain/trainer/step.hpp>
#include <ctrain/trainer/stream_lanes.hpp>
#include <ctrain/trainer/stream_store.hpp>
#include <ctrain/trainer/streamed_map.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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
  static constexpr bool keeps_on_device = P::policy.offload.activations == OffloadTo::none;
  using Map = StreamedMap<P>;

 public:
  StreamedStep(B& backend, const StreamOptions& options)
      : store_(options.directory),
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
    walk<StreamPass::train>();
    pending_ = deferred;
    update_numbers_ = n;
    return result_;
  }

  /// Forward only, dropout off, on the next micro-batch of `feed`; false if there is none.
  template <Feed F> bool evaluate(F& feed, StepResult& result) {
    flush();
    training_ = false;
    if (!take(feed, 1)) return false;
    result_ = result;
    walk<StreamPass::evaluate>();
    result = result_;
    return true;
  }

  /// Makes weights and moments those after the last step.
  void flush() {
    if constexpr (deferred)
      if (pending_) walk<StreamPass::flush>();
    pending_ = false;
  }

  /// The states between steps; to be called after flush().
  StreamStore<P>& store() { return store_; }
  const StreamLanes& lanes() const { return lanes_; }
  bytes bytes_down() const { return down_.carried(); }
  bytes bytes_up() const { return up_.carried(); }

  /// To be called after weights were written to the store from outside.
  void weights_changed() {
    if constexpr (homes_of(P::policy).weights_stay_on_device)
      for (int unit = 1; unit < units.count(); ++unit)
        store_.load(unit, reinterpret_cast<float*>(map_.weights(unit, unit)), nullptr, nullptr);
  }

  /// Of the last micro-batch: (sentences), and (sentences, labels) after evaluate().
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
    if (broken_)
      throw Error("step " + std::to_string(numbers_.step + 1), "an earlier step has failed",
                  "Resume from the last checkpoint, which is unharmed");
    broken_ = true;
    lanes_.walk({table.rows, std::size_t(table.size)});
    broken_ = false;
  }

  // the batch ------------------------------------------------------------------------------------

  /// The next micro-batches, with ids of words replaced by their row among those that are read.
  template <Feed F> bool take(F& feed, int most) {
    filled_ = feed.open(most);
    std::uint32_t ordinal = 0;
    for (int i = 0; i < filled_; ++i) {
      feed.fill(i, batches_[std::size_t(i)], ordinal);
      ordinal += std::uint32_t(feed.sentences(i));
    }
    number_words();
    return filled_ > 0;
  }
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
    for (int i = 0; i < filled_; ++i)
      for (int r = 0; r < batches_[std::size_t(i)].rows; ++r)
        f(batches_[std::size_t(i)].token_ids[r]);
  }

  // jobs -----------------------------------------------------------------------------------------

  void run(const StreamJob& j) {
    const bool exists = j.micro < filled_;  // the last step of an epoch may have fewer
    switch (j.task) {
      case StreamTask::compute:
        if (exists) compute(j);
        return;
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
        return store_.read(j, j.all_states && updates());
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
  /// Before the first step that defers its update there is none to make.
  bool updates() const { return !deferred || pending_; }

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
    map_.use(j.weights, j.gradients, j.region);
    const MicroBatch m{.batch = *last_,
                       .seed = numbers_.seed,
                       .step = std::uint32_t(numbers_.step),
                       .training = training_,
                       .accumulate = j.micro > 0};
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
    count();
    if (!training_) return;
    if (!std::isfinite(result_.loss_sum)) throw_not_finite("the sum of losses");
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
  void count() {
    const BatchView& b = *last_;
    for (int s = 0; s < b.sentences; ++s) {
      const std::int64_t length = b.lengths[s], rows = b.first_row[s + 1] - b.first_row[s];
      result_.tokens += length;
      result_.attended += length * rows;
      if (b.labels[s] < 0) continue;
      result_.loss_sum += losses()[std::size_t(s)];
      result_.correct += predictions()[std::size_t(s)] == b.labels[s];
      ++result_.sentences;
    }
    result_.rows += b.rows;
    ++result_.micro_batches;
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

  // gradients and update -------------------------------------------------------------------------

  /// Calls f(parameter, first element in the piece, elements, byte in the piece's gradients) for
  /// the part of each parameter that lies in a piece.
  template <class F> static void each_part(int unit, int piece, F&& f) {
    const StreamUnit& u = units.of(unit);
    const std::int64_t begin = piece * u.piece, end = begin + u.elements_of(piece);
    const bytes start = gradient_at(graph.parameters, policy, u, begin);
    for (int i = u.first; i < u.first + u.count; ++i) {
      const Parameter& p = graph.parameters.rows[i];
      const std::int64_t at = p.offset - u.start, from = std::max(at, begin),
                         to = std::min(at + p.elements(), end);
      if (from < to)
        f(p, from - begin, to - from, gradient_at(graph.parameters, policy, u, from) - start);
    }
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
    const std::byte* gradients = store_.collected(j.unit, j.piece, j.slot);
    each_part(j.unit, j.piece, [&](const Parameter& p, std::int64_t, std::int64_t count, bytes at) {
      typed(p, gradients + at, [&](const auto* g) { add_squares(g, count); });
    });
  }
  void judge() {
    const double mean = 1.0 / double(result_.sentences);
    result_.gradient_norm = std::sqrt(square_sum_.value()) * mean;
    if (!std::isfinite(result_.gradient_norm)) throw_not_finite("the gradient's norm");
    const double clip =
        numbers_.clip > 0 ? std::fmin(1.0, numbers_.clip / (result_.gradient_norm + 1e-6)) : 1.0;
    gradient_scale_ = float(mean * clip);
    if (!deferred) update_numbers_ = numbers_;
  }

  void update(const StreamJob& j) {
    const std::byte* gradients = j.unit == StreamUnits::word_table
                                     ? raw(gradient_of_words(j))
                                     : store_.gradients(j.unit, j.piece, j.slot);
    float* weights = store_.state(State::weight, j.unit, j.piece, j.slot);
    float* first_moment = store_.state(State::first_moment, j.unit, j.piece, j.slot);
    float* second_moment = store_.state(State::second_moment, j.unit, j.piece, j.slot);
    each_part(j.unit, j.piece,
              [&](const Parameter& p, std::int64_t first, std::int64_t count, bytes at) {
                typed(p, gradients + at, [&]<class G>(const G* gradient) {
                  const AdamWUpdateOf<G> call{.weight = weights + first,
                                              .first_moment = first_moment + first,
                                              .second_moment = second_moment + first,
                                              .gradient = gradient,
                                              .count = count,
                                              .kind = policy.optimizer.kind,
                                              .learning_rate = float(update_numbers_.learning_rate),
                                              .beta1 = policy.optimizer.beta1,
                                              .beta2 = policy.optimizer.beta2,
                                              .epsilon = policy.optimizer.epsilon,
                                              .weight_decay = decays(p, policy.optimizer.decay)
                                                                  ? update_numbers_.weight_decay
                                                                  : 0.0f,
                                              .gradient_scale = gradient_scale_,
                                              .t = update_numbers_.step + 1};
                  cpu::compute(call, host_threads);
                });
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
    throw Error("step " + std::to_string(numbers_.step + 1), what + " is not a finite number",
                "Lower the learning rate or resume from the last checkpoint, which is unharmed");
  }

  static constexpr cpu::Threads host_threads{1};  // beside the device's own

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
  ExactSum square_sum_;
  float gradient_scale_ = 0;
  bool training_ = true, pending_ = false, broken_ = false;
  StreamLanes lanes_;
};

}  // namespace ctrain
