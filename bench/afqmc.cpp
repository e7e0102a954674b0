// What packing is worth: pairs a second of whole optimizer steps on real pairs, packed end to end
// against padded to 512 and to 128 tokens, four pairs a step in the same order; and, with dropout
// off, the loss of the same steps, which must agree.
//
//   bench_afqmc [--data_dir DIR] [--vocab_path FILE] [--steps N] [--json FILE]
#include <ctrain/io/dataset.hpp>
#include <ctrain/io/sampler.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <chrono>
#include <cmath>

#include "options.hpp"

namespace {

using namespace ctrain;

constexpr int pairs = 16;

constexpr Policy of(Batch batch) {
  ModelShape model = megatron_bert_mini;
  model.positions = 512;
  model.hidden_dropout = model.attention_dropout = 0;
  return {.model = model,
          .batch = batch,
          .precision = {.compute = Compute::bf16},
          .device = host_memory(8 * GiB)};
}
struct Packed {
  static constexpr const char* name = "packed";
  static constexpr Policy policy =
      of({.packed_tokens = pairs * 128, .sentences = pairs, .length = 128});
};
struct PaddedTo128 {
  static constexpr const char* name = "padded to 128";
  static constexpr Policy policy = of({.sentences = pairs, .length = 128});
};
struct PaddedTo512 {
  static constexpr const char* name = "padded to 512";
  static constexpr Policy policy = of({.sentences = pairs, .length = 512});
};

/// A trainer, its sampler, and what was measured.
template <class P> struct Contestant {
  Trainer<P> trainer;
  Sampler sampler;
  std::vector<double> rates, losses;

  explicit Contestant(const Dataset& data) : sampler(data, P::policy.batch, P::policy.seed) {}

  void step(int i) {
    const auto start = std::chrono::steady_clock::now();
    const StepResult r =
        trainer.step().train(sampler, {.seed = 1,
                                       .step = i,
                                       .learning_rate = 1e-4 * std::min(1.0, i / 10.0),
                                       .weight_decay = 0.1f,
                                       .clip = 1.0f});
    rates.push_back(
        double(r.sentences) /
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    losses.push_back(r.loss());
  }
};

}  // namespace

int main(int argc, char** argv) try {
  const Options options(argc, argv,
                        {{"data_dir", "examples/data"}, {"vocab_path", ""}, {"steps", "30"}});
  const std::string folder = options.text("data_dir");
  const std::string vocabulary =
      options.text("vocab_path").empty() ? folder + "/vocab.txt" : options.text("vocab_path");
  const ExampleFile file = read_examples(folder + "/train.json", {}, Labels::required);
  const LabelMap labels(file, 2);
  const Dataset data =
      encode_examples(file, WordPiece(vocabulary, megatron_bert_mini.vocabulary), &labels, 128);

  Contestant<Packed> packed(data);
  Contestant<PaddedTo128> short_rows(data);
  Contestant<PaddedTo512> long_rows(data);
  for (int i = 0; i < options.number("steps"); ++i) {  // interleaved: all see the same machine
    packed.step(i);
    short_rows.step(i);
    long_rows.step(i);
  }
  nlohmann::json figures = nlohmann::json::array();
  std::printf("%-14s %10s %8s %22s\n", "", "pairs/s", "ratio", "largest loss difference");
  const auto tell = [&](const auto& c, const char* name) {
    double difference = 0;
    for (std::size_t i = 0; i < c.losses.size(); ++i)
      difference = std::max(difference, std::fabs(c.losses[i] - packed.losses[i]));
    const double rate = median(c.rates);
    std::printf("%-14s %10.1f %8.2f %22.1e\n", name, rate, rate / median(long_rows.rates),
                difference);
    figures.push_back({{"name", name},
                       {"pairs_per_second", rate},
                       {"ratio_to_padded_512", rate / median(long_rows.rates)},
                       {"largest_loss_difference", difference}});
  };
  tell(packed, Packed::name);
  tell(short_rows, PaddedTo128::name);
  tell(long_rows, PaddedTo512::name);
  options.write(figures);
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
