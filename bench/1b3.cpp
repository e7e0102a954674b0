// The real model on this machine: Erlangshen-MegatronBert-1.3B (random weights), exact AdamW with
// fp32 state, clipping at 1.0, dropout, four packed pairs a step. Prints seconds a step, resident
// memory and page faults.
//
//   bench_1b3 [--data_dir DIR] [--vocab_path FILE] [--steps N] [--json FILE]
#include <ctrain/backend/cpu/peak.hpp>
#include <ctrain/io/dataset.hpp>
#include <ctrain/io/sampler.hpp>
#include <ctrain/model/cost.hpp>

#include <chrono>

#include "options.hpp"
#include "shapes.hpp"
#include <sys/resource.h>

namespace {

using namespace ctrain;
using shapes::FourPairs;

rusage usage() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  return u;
}

}  // namespace

int main(int argc, char** argv) try {
  const Options options(argc, argv,
                        {{"data_dir", "examples/data"}, {"vocab_path", ""}, {"steps", "20"}});
  const std::string folder = options.text("data_dir");
  const std::string vocabulary =
      options.text("vocab_path").empty() ? folder + "/vocab.txt" : options.text("vocab_path");
  const ExampleFile file = read_examples(folder + "/train.json", {}, Labels::required);
  const LabelMap labels(file, FourPairs::policy.model.labels);
  const Dataset data =
      encode_examples(file, WordPiece(vocabulary, FourPairs::policy.model.vocabulary), &labels,
                      FourPairs::policy.batch.length);
  Sampler sampler(data, FourPairs::policy.batch, FourPairs::policy.seed);

  Trainer<FourPairs> trainer;
  std::vector<double> seconds, losses, tokens;
  long faults = 0, all_faults = 0;
  const int steps = options.number("steps");
  for (int step = 0; step < steps; ++step) {
    const long before = usage().ru_minflt + usage().ru_majflt;
    const auto start = std::chrono::steady_clock::now();
    const StepResult r =
        trainer.step().train(sampler, {.seed = 42,
                                       .step = step,
                                       .learning_rate = 1e-5 * std::min(1.0, step / 10.0),
                                       .weight_decay = 0.1f,
                                       .clip = 1.0f});
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    faults = usage().ru_minflt + usage().ru_majflt - before;
    if (step >= 2) all_faults += faults;
    losses.push_back(r.loss());
    tokens.push_back(double(r.tokens));
    std::printf(
        "step %2d  %6.3f s  %3lld tokens in %3lld rows  loss %.4f  gradient norm %.3f  page faults "
        "%ld\n",
        step + 1, seconds.back(), (long long)r.tokens, (long long)r.rows, r.loss(), r.gradient_norm,
        faults);
    std::fflush(stdout);
  }
  const std::vector<double> warm(seconds.begin() + std::min(2, steps - 1), seconds.end());
  const double resident = double(usage().ru_maxrss) * 1024 / double(GiB),
               arena = double(trainer.plan().arena()) / double(GiB);
  const double peak = cpu::measured_peak(DType::bf16, trainer.backend().workers());
  std::printf(
      "median %.3f s a step, least %.3f; resident %.2f GiB, arena %.2f GiB planned, high-water %s; "
      "%ld page faults in %zu steps after the second; peak %.0f GFLOP/s\n",
      median(warm), least(warm), resident, arena,
      trainer.arena().high_water() == trainer.plan().arena() ? "equal" : "NOT equal", all_faults,
      warm.size(), peak / 1e9);
  options.write({{"median_seconds", median(warm)},
                 {"least_seconds", least(warm)},
                 {"seconds", seconds},
                 {"losses", losses},
                 {"tokens", tokens},
                 {"resident_GiB", resident},
                 {"arena_bytes", trainer.plan().arena()},
                 {"page_faults_after_warm_up", all_faults},
                 {"peak_gflops", peak / 1e9}});
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
