// Whole optimizer steps (forward, backward, clip, AdamW) as shares of this machine's own peak,
// measured in the same process, interleaved with it. Shapes: two blocks of the 1.3B model at 128,
// 512 and 2,048 tokens, and the mini model at 2,048, in sentences of 32 tokens; fp32 and bf16.
//
//   bench_step [--json FILE] [--only NAME] [--repeats N]
#include <ctrain/backend/cpu/cpu.hpp>
#include <ctrain/backend/cpu/peak.hpp>
#include <ctrain/model/cost.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "feeds.hpp"
#include "options.hpp"
#include "shapes.hpp"

namespace {

using namespace ctrain;

template <class P>
void measure(const std::string& name, const Options& options, nlohmann::json& rows) {
  if (!options.text("only").empty() && options.text("only") != name) return;
  constexpr Policy policy = P::policy;
  Trainer<P> trainer;
  EqualSentences feed{policy.batch.sentence_bound(), shapes::sentence, policy.model.vocabulary};
  const StepNumbers numbers{.seed = 1, .learning_rate = 1e-5, .weight_decay = 0.1f, .clip = 1.0f};
  std::vector<double> seconds, peaks;
  for (int i = 0; i < options.number("repeats") + 2; ++i) {
    const auto start = std::chrono::steady_clock::now();
    StepNumbers n = numbers;
    n.step = i;
    trainer.step().train(feed, n);
    const double time =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (i < 2) continue;  // products and pages are warm afterwards
    seconds.push_back(time);
    peaks.push_back(cpu::measured_peak(policy.compute_type(), trainer.backend().workers()));
  }
  const double tokens = policy.batch.rows(), step = median(seconds);
  const double peak = *std::max_element(peaks.begin(), peaks.end());
  const double rate = training_flops(policy.model, tokens, tokens * shapes::sentence) / step;
  std::printf("%-22s %6.0f %9.2f %9.2f %8.1f %8.1f %7.1f%%\n", name.c_str(), tokens, 1e3 * step,
              1e3 * least(seconds), rate / 1e9, peak / 1e9, 100 * rate / peak);
  std::fflush(stdout);
  rows.push_back({{"name", name},
                  {"tokens", tokens},
                  {"median_ms", 1e3 * step},
                  {"least_ms", 1e3 * least(seconds)},
                  {"gflops", rate / 1e9},
                  {"peak_gflops", peak / 1e9},
                  {"share_of_peak", rate / peak},
                  {"arena_bytes", PlanOf<P>::plan.arena()}});
}

}  // namespace

int main(int argc, char** argv) {
  const Options options(argc, argv, {{"only", ""}, {"repeats", "12"}});
  nlohmann::json rows = nlohmann::json::array();
  std::printf("%-22s %6s %9s %9s %8s %8s %8s\n", "step", "tokens", "median ms", "least ms",
              "GFLOP/s", "peak", "share");
  shapes::each([&]<class P>(const std::string& name) { measure<P>(name, options, rows); });
  options.write(rows);
  return 0;
}
