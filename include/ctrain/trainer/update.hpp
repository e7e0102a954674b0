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

  /// The numbers of what follows; weight decay is told apart by parameter.
  void begin(const OptimizerNumbers& numbers) { numbers_ = numbers; }

  /// One update of consecutive elements of a parameter.
  template <class G> void run(const Run& run, const G* gradient) {
    const OptimizerNumbers n = numbers_of(run);
    if constexpr (is_adam(kind))
      adam(run, gradient, n, kind, true);
    else if constexpr (kind == OptimizerKind::lamb)
      lamb(run, gradient, n);
    else
      one_bit_adam(run, gradient, n);
  }

  /// Momentum follows this rank's own gradients, `each_gradient(visit(run, gradient))`; signs of it
  /// and of what was lost before are made ready for their servers.
  template <class EachGradient> void compress(EachGradient&& each_gradient) {
    Cursor at;
    each_gradient([&](const Run& run, const auto* gradient) {
      using G = std::remove_cvref_t<decltype(*gradient)>;
      const SignLayout layout{run.count, traffic.ranks};
      float* const m = map_.at(State::first_moment, run);
      float* const error = floats(traffic.worker_errors() + 4 * at.padded, layout.padded());
      backend_.run(
          RunRows<FollowGradient, G>{FollowGradient(numbers_of(run)), {m}, run.count, gradient});
      backend_.run(RunRows<AddToError>{{}, {error, m}, run.count});
      const ExactSum* const sum = squares(error, layout.padded());
      for (int to = 0; to < traffic.ranks; ++to)
        backend_.run(PackSigns{signs(message_to(to), at), scale(message_to(to), at),
                               error + to * layout.chunk(), sum, layout.padded(), layout.chunk()});
      at.pass(layout);
    });
  }

  /// The mean of this rank's chunk of all signs, and what was lost of it before, as signs.
  void serve() {
    Cursor at;
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
    Cursor at;
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
      backend_.run(RunRows<KeepWhereMoved>{{}, {m, map_.at(State::second_moment, run)}, run.count});
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
  /// Where a tensor's share stands among those of all.
  struct Cursor {
    std::int64_t tensor = 0, padded = 0, chunk = 0, chunk_bytes = 0;
    void pass(const SignLayout& layout) {
      ++tensor;
      padded += layout.padded(), chunk += layout.chunk(), chunk_bytes += layout.chunk_bytes();
    }
  };

  OptimizerNumbers numbers_of(const Run& run) const {
    OptimizerNumbers n = numbers_;
    if (!decays(graph.parameters.rows[run.parameter], optimizer.decay)) n.weight_decay = 0;
    return n;
  }
  template <class G>
  void adam(const Run& run, const G* gradient, const OptimizerNumbers& n, OptimizerKind which,
            bool correct_bias) {
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
                                  .correct_bias = correct_bias});
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
  float* scale(bytes message, const Cursor& at) { return floats(message + 4 * at.tensor, 1); }
  std::uint8_t* signs(bytes message, const Cursor& at) {
    return map_.template optimizer<std::uint8_t>(message + traffic.scales() + at.chunk_bytes, 1);
  }

  B& backend_;
  Map& map_;
  OptimizerNumbers numbers_;
};

}  // namespace ctrain
