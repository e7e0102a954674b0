// Two processes against one: seconds of a step, bytes sent against the least possible, how much of
// the transfers happens while the rank computes, and what layout-invariant bits cost. The mini
// model, micro-batches of 512 tokens; all set-ups in turn, round after round.
//
//   bench/run.sh scaling [--rounds N] [--trace FILE]   (mpirun -n 2 bench_scaling_mpi)
//
// --trace writes the last recorded step of ZeRO stage 1 for Perfetto or chrome://tracing.
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/backend/cpu/cpu.hpp>
#include <ctrain/core/clock.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/render.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <cstring>
#include <fstream>
#include <memory>
#include <span>

#include "feeds.hpp"
#include "report.hpp"

namespace {

using namespace ctrain;

constexpr auto fixed = Deterministic::fixed_layout;
constexpr auto invariant = Deterministic::layout_invariant;

template <int Data, int Stage, int Accumulation, Deterministic Bits> struct On {
  static constexpr Policy policy{
      .model = megatron_bert_mini,
      .batch = {.packed_tokens = 512, .sentences = 16, .length = 32, .accumulation = Accumulation},
      .weights = Stage == 3 ? WeightLayout::plain : WeightLayout::packed,
      .parallel = {.data = Data},
      .zero = {.stage = Stage, .bucket = 4 * MiB},
      .deterministic = Bits,
      .device = host_memory(4 * GiB)};
};

/// One set-up: its trainer, and what its steps took.
template <class P, class C> struct SetUp {
  Trainer<P, Cpu, C> trainer;
  EqualSentences feed{16, 32, P::policy.model.vocabulary};
  static constexpr double least_sent =
      double(least_bytes_sent(ScheduleOf<P>::split, ScheduleOf<P>::schedule.layouts[0]));
  std::vector<double> seconds, sent, hidden;
  std::vector<Span> spans;
  int step = 0;

  explicit SetUp(C& communicator) : trainer(communicator, 1) {}

  void train() {
    trainer.step().train(
        feed, {.seed = 1, .step = step++, .learning_rate = 1e-5, .weight_decay = 0.1f, .clip = 1});
  }
  static bytes sent_by(const Single&) { return 0; }
  template <class Ranks> static bytes sent_by(const Ranks& ranks) { return ranks.sent(); }

  /// Some steps, timed together, then one that is recorded.
  void round(int steps) {
    C& communicator = trainer.communicator();
    train();
    const bytes before = sent_by(communicator);
    const double start = steady_seconds();
    for (int i = 0; i < steps; ++i) train();
    seconds.push_back((steady_seconds() - start) / steps);
    sent.push_back(double(sent_by(communicator) - before) / steps);
    spans.clear();
    trainer.step().record(&spans);
    train();
    trainer.step().record(nullptr);
    hidden.push_back(hidden_share());
  }

  /// The share of the transfers' seconds in which this rank computes.
  double hidden_share() const {
    double all = 0, at_once = 0;
    for (const Span& transfer : spans) {
      if (transfer.lane == 0) continue;
      all += transfer.end - transfer.begin;
      for (const Span& work : spans)
        if (work.lane == 0)
          at_once += std::max(
              0.0, std::min(work.end, transfer.end) - std::max(work.begin, transfer.begin));
    }
    return all > 0 ? at_once / all : 0;
  }
};

}  // namespace

int main(int argc, char** argv) {
  const Options options(argc, argv, {{"rounds", "7"}, {"trace", ""}});
  constexpr Grid grid{2, 1, 1};
  Mpi communicator(grid, 60, grid.ranks());
  const bool leads = communicator.rank() == 0;
  Single alone;
  const auto one_1 = std::make_unique<SetUp<On<1, 0, 1, fixed>, Single>>(alone);
  const auto one_4 = std::make_unique<SetUp<On<1, 0, 4, fixed>, Single>>(alone);
  const auto two = [&]<class P>() { return std::make_unique<SetUp<P, Mpi>>(communicator); };
  const auto stage_0 = two.operator()<On<2, 0, 1, fixed>>();
  const auto stage_1 = two.operator()<On<2, 1, 1, fixed>>();
  const auto stage_2 = two.operator()<On<2, 2, 1, fixed>>();
  const auto stage_3 = two.operator()<On<2, 3, 1, fixed>>();
  const auto free_4 = two.operator()<On<2, 1, 4, fixed>>();
  const auto bits_4 = two.operator()<On<2, 1, 4, invariant>>();
  const auto bits_1 = two.operator()<On<2, 1, 1, invariant>>();

  const std::byte here{};
  for (int i = 0; i < options.number("rounds"); ++i) {
    if (leads) one_1->round(4), one_4->round(1);
    communicator.gather({&here, 1});  // the other rank waits, and uses no processor
    stage_0->round(4), stage_1->round(4), stage_2->round(4), stage_3->round(4);
    free_4->round(2), bits_4->round(2), bits_1->round(4);
  }
  if (!options.text("trace").empty()) {
    std::vector<std::vector<Span>> all;
    for (const auto& theirs : communicator.gather(std::as_bytes(std::span(stage_1->spans)))) {
      all.emplace_back(theirs.size() / sizeof(Span));
      std::memcpy(all.back().data(), theirs.data(), theirs.size());
    }
    if (leads)
      std::ofstream(options.text("trace"))
          << render_trace(ScheduleOf<On<2, 1, 1, fixed>>::schedule, all);
  }
  if (!leads) return 0;

  bench::Report report(options);
  report.fact("threads of a rank", stage_0->trainer.backend().workers());
  const auto row = [&](const char* name, const auto& set_up, const auto& one) {
    using T = std::remove_cvref_t<decltype(set_up->trainer)>;
    const Policy& p = T::policy;
    const double step = median(set_up->seconds), sent = median(set_up->sent);
    report.row({{"set-up", name},
                {"ranks", p.parallel.ranks()},
                {"ms a step", 1e3 * step},
                {"of one", median(one->seconds) / step},
                {"MB sent", sent / 1e6},
                {"of least", set_up->least_sent > 0 ? sent / set_up->least_sent : 1},
                {"hidden", median(set_up->hidden)}});
  };
  row("one rank", one_1, one_1);
  row("stage 0", stage_0, one_1);
  row("stage 1", stage_1, one_1);
  row("stage 2", stage_2, one_1);
  row("stage 3", stage_3, one_1);
  row("bits", bits_1, one_1);
  row("one, 4 micro", one_4, one_4);
  row("free, 4 micro", free_4, one_4);
  row("bits, 4 micro", bits_4, one_4);
  std::vector<double> cost;
  for (std::size_t i = 0; i < free_4->seconds.size(); ++i)
    cost.push_back(bits_4->seconds[i] / free_4->seconds[i] - 1);
  report.fact("cost of fixed bits, 4 micro", median(cost));
  return 0;
}
