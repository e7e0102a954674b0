// What compressed sums cost in loss, and what they save in bytes: AdamW and LAMB against 1-bit Adam
// and 1-bit LAMB on real pairs, from the same weights, on the same batches in the same order. Bytes
// are those that the communicator of rank 0 has sent, warm-up included.
//
//   bench/run.sh compressed [--ranks 2 or 4] [--data_dir DIR] [--vocab_path FILE] [--pairs N]
//                           [--only PART_OF_A_NAME] [--rate N, in millionths] [--lamb_rate N]
//
// Without --data_dir: AFQMC of ../shared/data where it is, else the bundled pairs. --pairs: the
// first so many of them are trained on, again and again, so that there is something to learn in so
// few steps.
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/backend/cpu/cpu.hpp>
#include <ctrain/io/dataset.hpp>
#include <ctrain/io/jsonl.hpp>
#include <ctrain/io/sampler.hpp>
#include <ctrain/io/together.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/learning_rate.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "report.hpp"

namespace {

using namespace ctrain;
using Kind = OptimizerKind;

constexpr int steps = 256, warmup = 16, freeze = 41;
constexpr int window = 16;  // of the curve, in steps

/// 512 tokens a step on any number of ranks, that is about 17 pairs.
template <Kind Which, int Data> struct On {
  static constexpr bool is_lamb = has_trust_ratio(Which);
  static constexpr Policy policy{.model = megatron_bert_mini,
                                 .batch = {.packed_tokens = 512 / Data, .length = 64},
                                 .optimizer = {.kind = Which,
                                               .beta2 = 0.99f,
                                               .epsilon = is_lamb ? 1e-6f : 1e-8f,
                                               .weight_decay = 0.01f,
                                               .compression = {.freeze_step = freeze}},
                                 .parallel = {.data = Data},
                                 .device = host_memory(4 * GiB)};
};

/// The data and the numbers that all methods share.
struct Task {
  const Options& options;
  Dataset train, held;
  bench::Report* report = nullptr;  // on rank 0
  double bytes_of_adamw = 0, loss_of_adamw = 0;
};

/// One method from the first step to the last: its curve, its bytes, its loss on held pairs.
template <class P> void run(Task& task, Mpi& communicator, const char* name) {
  if (const std::string& only = task.options.text("only");
      !only.empty() && std::string(name).find(only) == std::string::npos)
    return;
  const auto trainer = std::make_unique<Trainer<P, Cpu, Mpi>>(communicator, 1);
  Sampler sampler(task.train, P::policy.batch, 1);
  const LearningRate rate{
      .base = 1e-6 *
              task.options.number(On<P::policy.optimizer.kind, 1>::is_lamb ? "lamb_rate" : "rate"),
      .steps = {steps, warmup}};
  const bytes before = communicator.sent();
  std::vector<double> curve;
  StepResult sum;
  for (int step = 0; step < steps;) {
    const StepResult result = trainer->step().train(sampler, {.seed = 1,
                                                              .step = step,
                                                              .learning_rate = rate.at(step),
                                                              .weight_decay = 0.01f,
                                                              .clip = 1});
    if (result.micro_batches == 0) {
      sampler.start({sampler.position().epoch + 1});
      continue;
    }
    sum += result;
    if (++step % window == 0)
      curve.push_back(std::round(1e4 * std::exchange(sum, {}).loss()) / 1e4);
  }
  const double sent = double(communicator.sent() - before);
  const double last = (curve.back() + curve[curve.size() - 2]) / 2;

  Sampler held(task.held, P::policy.batch);
  StepResult mine, all;
  while (trainer->step().evaluate(held, mine)) {
  }
  for (const auto& theirs : communicator.gather(std::as_bytes(std::span(&mine, 1)))) {
    StepResult other;
    std::memcpy(&other, theirs.data(), sizeof other);
    all += other;
  }
  if (P::policy.optimizer.kind == Kind::adamw_torch)
    task.bytes_of_adamw = sent, task.loss_of_adamw = last;
  if (task.report == nullptr) return;
  task.report->row({{"method", name},
                    {"MB sent", sent / 1e6},
                    {"of AdamW", task.bytes_of_adamw > 0 ? sent / task.bytes_of_adamw : 1},
                    {"last loss", last},
                    {"above AdamW", last - task.loss_of_adamw},
                    {"held loss", all.loss()},
                    {"held acc", all.accuracy()},
                    {"curve", curve}});
}

template <int Data> void run_all(Task& task, Mpi& communicator) {
  run<On<Kind::adamw_torch, Data>>(task, communicator, "adamw");
  run<On<Kind::one_bit_adam, Data>>(task, communicator, "one_bit_adam");
  run<On<Kind::lamb, Data>>(task, communicator, "lamb");
  run<On<Kind::one_bit_lamb, Data>>(task, communicator, "one_bit_lamb");
}

Task task_of(const Options& options) {
  namespace fs = std::filesystem;
  std::string folder = options.text("data_dir"), vocabulary = options.text("vocab_path");
  const fs::path shared = "../shared/data";
  if (folder.empty() && fs::exists(shared / "afqmc")) {
    folder = shared / "afqmc";
    if (vocabulary.empty()) vocabulary = shared / "vocab/erlangshen-megatronbert-1.3b-vocab.txt";
  }
  if (folder.empty()) folder = "examples/data";
  if (vocabulary.empty()) vocabulary = folder + "/vocab.txt";
  const WordPiece tokenizer(vocabulary, megatron_bert_mini.vocabulary);
  ExampleFile train = read_examples(folder + "/train.json", {}, Labels::required);
  ExampleFile held = read_examples(folder + "/dev.json", {}, Labels::required);
  const auto first = std::size_t(options.number("pairs"));
  for (ExampleFile* const file : {&train, &held})
    if (file->examples.size() > first) file->examples.resize(first);
  const LabelMap labels(train, 2);
  return {options, encode_examples(train, tokenizer, &labels, 64),
          encode_examples(held, tokenizer, &labels, 64)};
}

}  // namespace

int main(int argc, char** argv) try {
  const Options options(argc, argv,
                        {{"ranks", "2"},
                         {"data_dir", ""},
                         {"vocab_path", ""},
                         {"pairs", "512"},
                         {"only", ""},
                         {"rate", "500"},
                         {"lamb_rate", "5000"}});
  const int ranks = options.number("ranks");
  const Grid grid{ranks, 1, 1};
  Mpi communicator(grid, 60, ranks);
  Task task = task_of(options);
  std::optional<bench::Report> report;
  if (communicator.rank() == 0) {
    report.emplace(options);
    report->fact("data", task.train.source);
    report->fact("pairs", task.train.size());
    report->fact("steps", steps), report->fact("freeze", freeze);
    task.report = &*report;
  }
  ranks == 4 ? run_all<4>(task, communicator) : run_all<2>(task, communicator);
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
