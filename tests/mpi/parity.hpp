/// \file  Ranks that are processes against one rank: fifty steps of one policy on AFQMC's pairs.
#pragma once

#include <ctrain/backend/comm/agreement.hpp>
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/io/dataset.hpp>
#include <ctrain/io/sampler.hpp>
#include <ctrain/io/wordpiece.hpp>

#include <array>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "../unit/trainer/ranks.hpp"

namespace parity {

using namespace ctrain;

inline constexpr ModelShape small{.vocabulary = 21248,
                                  .positions = 128,
                                  .layers = 4,
                                  .hidden = 64,
                                  .heads = 4,
                                  .feed_forward = 128};
inline constexpr auto zero_bubble = PipelineOrder::zero_bubble;

/// What one policy's ranks differ in from another's.
struct Layout {
  Parallel parallel{};
  int stage = 0;
  int accumulation = 1;
  Deterministic bits = Deterministic::layout_invariant;

  constexpr int micro_batches() const { return parallel.data * accumulation; }
};

template <Layout L> struct On {
  static constexpr Policy policy{
      .model = small,
      .batch = {.packed_tokens = 256, .length = 128, .accumulation = L.accumulation},
      .weights = L.stage == 3 ? WeightLayout::plain : WeightLayout::packed,
      .parallel = L.parallel,
      .zero = {.stage = L.stage, .bucket = 64 * KiB},
      .deterministic = L.bits,
      .device = host_memory(256 * MiB, 1)};
};
/// The single rank that all layouts of as many micro-batches a step are compared with.
template <Layout L> using One = On<Layout{.accumulation = L.micro_batches(), .bits = L.bits}>;

struct Run {
  static constexpr int steps = 50, evaluations = 8;
  std::array<StepResult, steps> results{};
  StepResult evaluated{};
};

/// The pairs of a folder, which are AFQMC's or like them.
inline Dataset pairs(const std::string& folder, const std::string& vocabulary) {
  const WordPiece tokenizer(vocabulary, small.vocabulary);
  const ExampleFile file = read_examples(folder + "/train.json", {}, Labels::required);
  const LabelMap labels(file, small.labels);
  return encode_examples(file, tokenizer, &labels, On<Layout{}>::policy.batch.length);
}

template <class P, Communicator C> Run train(Trainer<P, Cpu, C>& trainer, const Dataset& data) {
  Run run;
  Sampler feed(data, P::policy.batch, 7);
  for (int step = 0; step < Run::steps; ++step) {
    const StepNumbers numbers{
        .seed = 3, .step = step, .learning_rate = 5e-4, .weight_decay = 0.1f, .clip = 1.0f};
    run.results[step] = trainer.step().train(feed, numbers);
    if (run.results[step].micro_batches > 0) continue;
    feed.start({feed.position().epoch + 1});
    run.results[step] = trainer.step().train(feed, numbers);
  }
  Sampler held(data, P::policy.batch);
  while (held.position().batch < Run::evaluations && trainer.step().evaluate(held, run.evaluated)) {
  }
  return run;
}

inline void require(bool truth, const std::string& what) {
  if (!truth) throw Error("parity", what, "See what changed");
}
inline void require_close(double a, double b, double tolerance, const std::string& what) {
  char text[128];
  std::snprintf(text, sizeof text, " is %.9g, of one rank %.9g", a, b);
  require(std::abs(a - b) <= tolerance * std::abs(b), what + text);
}

/// Root mean square of what differs in a part, as a share of that of the whole tensor.
inline double difference(const TensorPart& part, const std::vector<float>& whole) {
  double off = 0, all = 1e-30;
  for (std::int64_t i = 0; i < part.count; ++i) {
    const double d = double(part.data[i]) - double(whole[std::size_t(part.first + i)]);
    off += d * d;
  }
  for (const float x : whole) all += double(x) * double(x);
  return std::sqrt(off / double(part.count) / (all / double(whole.size())));
}

/// Every weight and moment that this rank holds is the single rank's: to the bit, or within
/// `tolerance`. Biases of keys are left out there: softmax does not feel them, so their gradient is
/// rounding, and Adam makes steps of it. Returns the largest difference.
template <class T> double compare(T& trainer, const ranks::Tensors& one, double tolerance) {
  const std::pair<State, const char*> states[] = {{State::weight, "weight "},
                                                  {State::first_moment, "first_moment "},
                                                  {State::second_moment, "second_moment "}};
  double worst = 0;
  for (const auto& [state, prefix] : states)
    for (const TensorPart& part : trainer.parts(state)) {
      const std::string name = prefix + part.name;
      const std::vector<float>& whole = one.at(name);
      require(part.first + part.count <= std::int64_t(whole.size()), name + " has other elements");
      const bool same = std::memcmp(part.data, whole.data() + part.first,
                                    std::size_t(part.count) * sizeof(float)) == 0;
      if (same || (tolerance > 0 && name.ends_with("self.key.bias"))) continue;
      worst = std::max(worst, difference(part, whole));
      require(worst <= tolerance, name + " differs by " + std::to_string(worst));
    }
  return worst;
}

/// One layout on this process's rank. `tolerance` is of tensors, 0 of layouts that claim bits.
template <Layout L> void check(const Dataset& data, double tolerance) {
  ranks::Tensors expected;
  Run one;
  {
    Trainer<One<L>> single(11);
    one = train<One<L>>(single, data);
    ranks::add_parts(single, expected);
  }
  Mpi communicator(grid_of(L.parallel), 20, L.parallel.ranks());
  Trainer<On<L>, Cpu, Mpi> trainer(communicator, 11);
  const Run many = train<On<L>>(trainer, data);
  const double worst = compare(trainer, expected, tolerance);
  for (int i = 0; i < Run::steps; ++i) {
    const std::string step = "step " + std::to_string(i);
    const StepResult &a = many.results[i], &b = one.results[i];
    require(a.sentences == b.sentences && a.tokens == b.tokens, step + " has other sentences");
    require_close(a.loss(), b.loss(), tolerance > 0 ? tolerance : 1e-12, step + ": loss");
    require_close(a.gradient_norm, b.gradient_norm, 10 * tolerance, step + ": gradient norm");
  }
  require(trainer.arena().high_water() == trainer.plan().arena(),
          "the arena's high-water mark is not the plan's");

  StepResult evaluated;
  for (const std::vector<std::byte>& theirs :
       communicator.gather(std::as_bytes(std::span(&many.evaluated, 1)))) {
    StepResult result;
    std::memcpy(&result, theirs.data(), sizeof result);
    evaluated += result;
  }
  require(evaluated.sentences == one.evaluated.sentences, "other sentences are evaluated");
  require_close(evaluated.loss(), one.evaluated.loss(), tolerance > 0 ? tolerance : 1e-12,
                "the evaluated loss");
  if (communicator.rank() == 0)
    std::printf("%d ranks equal one after %d steps, loss %.4f to %.4f, tensors within %.1e\n",
                communicator.ranks(), Run::steps, one.results.front().loss(),
                one.results.back().loss(), worst);
}

/// A layout under its name.
struct Case {
  std::string_view name;
  int ranks = 1;
  void (*check)(const Dataset& data, double tolerance) = nullptr;
  double tolerance = 0;
};
template <Layout L> constexpr Case bits(std::string_view name) {
  static_assert(L.bits == Deterministic::layout_invariant);
  return {name, L.parallel.ranks(), check<L>, 0};
}
template <Layout L> constexpr Case close(std::string_view name, double tolerance) {
  return {name, L.parallel.ranks(), check<L>, tolerance};
}

/// PROGRAM: lists its cases, one a line: name and number of ranks. PROGRAM NAME FOLDER VOCABULARY:
/// what one rank does.
inline int main(int argc, char** argv, std::span<const Case> cases) {
  if (argc == 1) {
    for (const Case& c : cases)
      std::printf("%.*s %d\n", int(c.name.size()), c.name.data(), c.ranks);
    return 0;
  }
  try {
    for (const Case& c : cases)
      if (c.name == argv[1]) return c.check(pairs(argv[2], argv[3]), c.tolerance), 0;
    throw Error(argv[1], "is no case", "Name one that the program lists");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}

}  // namespace parity
