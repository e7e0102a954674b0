/// \file  What compressed sums cost in loss, and what they save in bytes: AdamW and LAMB against 1-bit
/// Adam, 0/1 Adam and 1-bit LAMB on real pairs, from the same weights, on the same batches in the
/// same order. Bytes are those that the communicator of rank 0 has sent, warm-up included.
///
///   bench/run.sh compressed [--ranks 2 or 4] [--data_dir DIR] [--vocab_path FILE] [--pairs N]
///                           [--only PART_OF_A_NAME] [--rate N, in millionths] [--lamb_rate N]
///                           [--seed N]
///
/// Without --data_dir: AFQMC of ../shared/data where it is, else the bundled pairs. --pairs: the
/// first so many of them are trained on, again and again, so that there is something to learn in so
/// few steps.
#pragma once

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
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report.hpp"

namespace compressed {

using namespace ctrain;
using Kind = OptimizerKind;

constexpr int steps = 256, more_steps = 384, warmup = 16;
constexpr int window = 16;  // of the curve, in steps

/// What is aimed at: the loss of the last two windows is at most that much above AdamW's, for at
/// most that share of its bytes.
constexpr double margin = 0.02, most_bytes = 0.2;

/// 1-bit Adam and LAMB freeze after 16 % of the steps (15 to 25 in DeepSpeed's guide). 0/1 Adam,
/// which sums gradients in full less and less often until then, does after 25 %, and then syncs in
/// each of 48 steps, in every other of as many, and in every fourth.
constexpr Compression compression_of(Kind kind, int all_steps) {
  if (kind != Kind::zero_one_adam) return {.freeze_step = (16 * all_steps + 99) / 100};
  return {.freeze_step = all_steps / 4,
          .variance_scaler = 24,
          .local_step_scaler = 48,
          .local_step_limit = 4};
}
/// 0/1 Adam's paper adds epsilon to the variance, under the root: squared, it is Adam's.
constexpr float epsilon_of(Kind kind, Compat form) {
  if (has_trust_ratio(kind)) return 1e-6f;
  return kind == Kind::zero_one_adam && form == Compat::paper ? 1e-16f : 1e-8f;
}

/// 512 tokens a step on any number of ranks, that is about 17 pairs.
template <Kind Which, int Data, Compat Form = Compat::paper, int Steps = steps> struct On {
  static constexpr bool is_lamb = has_trust_ratio(Which);
  static constexpr Policy policy{.model = megatron_bert_mini,
                                 .batch = {.packed_tokens = 512 / Data, .length = 64},
                                 .optimizer = {.kind = Which,
                                               .beta2 = 0.99f,
                                               .epsilon = epsilon_of(Which, Form),
                                               .weight_decay = 0.01f,
                                               .compat = Form,
                                               .compression = compression_of(Which, Steps)},
                                 .parallel = {.data = Data},
                                 .device = host_memory(4 * GiB)};
};

/// The data and the numbers that all methods share.
struct Task {
  const Options& options;
  Dataset train, held;
  bench::Report* report = nullptr;  // on rank 0
  std::optional<double> loss_of_adamw{};
};

/// One method from the first step to the last: its curve, its bytes, its loss on held pairs.
template <class P>
void run(Task& task, Mpi& communicator, const char* name, int all_steps = steps) {
  if (const std::string& only = task.options.text("only");
      !only.empty() && std::string(name).find(only) == std::string::npos)
    return;
  const auto seed = std::uint64_t(task.options.number("seed"));
  const auto trainer = std::make_unique<Trainer<P, Cpu, Mpi>>(communicator, seed);
  Sampler sampler(task.train, P::policy.batch, seed);
  const LearningRate rate{
      .base = 1e-6 *
              task.options.number(On<P::policy.optimizer.kind, 1>::is_lamb ? "lamb_rate" : "rate"),
      .steps = {all_steps, warmup}};
  const bytes before = communicator.sent();
  std::vector<double> curve;
  StepResult sum;
  for (int step = 0; step < all_steps;) {
    const StepResult result = trainer->step().train(sampler, {.seed = seed,
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

  trainer->step().sync();
  Sampler held(task.held, P::policy.batch);
  StepResult mine, all;
  while (trainer->step().evaluate(held, mine)) {
  }
  for (const auto& theirs : communicator.gather(std::as_bytes(std::span(&mine, 1)))) {
    StepResult other;
    std::memcpy(&other, theirs.data(), sizeof other);
    all += other;
  }
  if (P::policy.optimizer.kind == Kind::adamw_torch) task.loss_of_adamw = last;
  if (task.report == nullptr) return;
  // what a method that always sums gradients in full sends
  using Dense = On<Kind::adamw_torch, P::policy.parallel.data>;
  const double share =
      sent / (all_steps * double(bytes_sent(ScheduleOf<Dense>::training::schedule, 0)));
  bench::Report::Row above, met;  // unknown where AdamW has been left out
  if (task.loss_of_adamw) {
    above = last - *task.loss_of_adamw;
    met = above <= margin && (share <= most_bytes || !sends_signs(P::policy.optimizer.kind));
  }
  task.report->row({{"method", name},
                    {"MB sent", sent / 1e6},
                    {"of AdamW", share},
                    {"last loss", last},
                    {"above AdamW", above},
                    {"met", met},
                    {"held loss", all.loss()},
                    {"held acc", all.accuracy()},
                    {"curve", curve}});
}

template <int Data> void run_all(Task& task, Mpi& communicator) {
  run<On<Kind::adamw_torch, Data>>(task, communicator, "adamw");
  run<On<Kind::one_bit_adam, Data>>(task, communicator, "one_bit_adam");
  run<On<Kind::zero_one_adam, Data>>(task, communicator, "zero_one_adam");
  run<On<Kind::zero_one_adam, Data, Compat::deepspeed>>(task, communicator,
                                                        "zero_one_adam_deepspeed");
  run<On<Kind::lamb, Data>>(task, communicator, "lamb");
  run<On<Kind::one_bit_lamb, Data>>(task, communicator, "one_bit_lamb");
  // once more where the loss has begun to fall before the freeze
  run<On<Kind::adamw_torch, Data>>(task, communicator, "adamw_longer", more_steps);
  run<On<Kind::one_bit_adam, Data, Compat::paper, more_steps>>(task, communicator,
                                                               "one_bit_adam_longer", more_steps);
}

inline Task task_of(const Options& options) {
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

/// The program on that many ranks.
template <int Data> int main_of(int argc, char** argv) try {
  const Options options(argc, argv,
                        {{"ranks", std::to_string(Data)},
                         {"data_dir", ""},
                         {"vocab_path", ""},
                         {"pairs", "64"},
                         {"only", ""},
                         {"rate", "500"},
                         {"lamb_rate", "5000"},
                         {"seed", "1"}});
  Mpi communicator(Grid{Data, 1, 1}, 60, options.number("ranks"));
  Task task = task_of(options);
  std::optional<bench::Report> report;
  if (communicator.rank() == 0) {
    report.emplace(options);
    report->fact("data", task.train.source);
    report->fact("pairs", task.train.size()), report->fact("steps", steps);
    report->fact("aim: above AdamW, at most", margin);
    report->fact("aim: of AdamW's bytes", most_bytes);
    task.report = &*report;
  }
  run_all<Data>(task, communicator);
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}

}  // namespace compressed
