// Trainers whose ranks have a card each, on cards that are threads: kernels, transfers and events
// happen whenever their streams come to them, and what is read too early has other bits.
#include <ctrain/backend/comm/device_ranks.hpp>
#include <ctrain/policy/presets.hpp>

#include <catch2/catch.hpp>

#include "emulated_cards.hpp"
#include "ranks.hpp"

namespace {

using namespace ctrain;
using Communicator = DeviceRanks<emulated::Library, ctrain::Threads>;

constexpr ModelShape small{
    .vocabulary = 64, .positions = 48, .layers = 2, .hidden = 32, .heads = 2, .feed_forward = 64};

template <Parallel Over, int Stage, Deterministic Bits> struct On {
  static constexpr Policy policy{
      .model = small,
      .batch = {.packed_tokens = 64, .sentences = 3, .length = 32, .accumulation = 4 / Over.data},
      .parallel = Over,
      .zero = {.stage = Stage, .bucket = 16 * KiB},
      .deterministic = Bits,
      .device = gpu_24gb};
};
constexpr auto free_order = Deterministic::fixed_layout;
constexpr auto invariant = Deterministic::layout_invariant;

/// Of four micro-batches each; the last has three.
constexpr int steps = 4;

/// act(trainer) on every rank of P; what each ended with, "" where it threw nothing.
template <class P, class Act>
std::vector<std::string> on_all_cards(DeviceRanksOptions options, bool notices, Act&& act) {
  constexpr int count = P::policy.parallel.ranks();
  constexpr Grid grid = grid_of(P::policy.parallel);
  ThreadHub hub(count);
  emulated::World world;
  std::vector<std::string> errors(count);
  const auto run = [&](int rank) {
    try {
      Communicator communicator(grid, options, emulated::Library(world, notices), grid, 20.0, hub,
                                rank);
      Trainer<P, emulated::Card, Communicator> trainer(communicator, 11);
      act(trainer);
    } catch (const std::exception& error) {
      errors[std::size_t(rank)] = error.what();
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank) threads.emplace_back(run, rank);
  for (std::thread& t : threads) t.join();
  CHECK_FALSE(world.hangs);
  return errors;
}

struct Outcome {
  ranks::Tensors tensors;
  std::vector<double> losses, norms;
  bool ranks_agree = true;
};
template <class T> void note(T& trainer, const std::vector<StepResult>& results, Outcome& outcome) {
  trainer.fetch_state();
  outcome.ranks_agree &= ranks::add_parts(trainer, outcome.tensors);
  outcome.losses.clear(), outcome.norms.clear();
  for (const StepResult& r : results)
    outcome.losses.push_back(r.loss()), outcome.norms.push_back(r.gradient_norm);
}
constexpr ranks::Sentences feed_of(const Policy& p) {
  return {p.batch, p.model.vocabulary, 4 * steps - 1};
}
StepNumbers numbers_of(int step) {
  return {.seed = 3,
          .step = step,
          .learning_rate = 1e-3 * (step + 1),
          .weight_decay = 0.1f,
          .clip = 1.0f};
}

/// All steps, one after the other, and then a look at what came of them. They are walked, recorded
/// and replayed, or, with `is_walked`, walked each time.
template <class T> std::vector<StepResult> launch(T& trainer, bool is_walked) {
  trainer.backend().is_walked = is_walked;
  ranks::Sentences feed = feed_of(trainer.policy);
  for (int step = 0; step < steps; ++step) trainer.step().launch(feed, numbers_of(step));
  const auto results = trainer.step().read_out();
  return {results.begin(), results.end()};
}
template <class P> Outcome train(bool is_walked = false) {
  Outcome outcome;
  std::mutex mutex;
  const auto errors = on_all_cards<P>(DeviceRanksOptions::of(P::policy), true, [&](auto& trainer) {
    const auto results = launch(trainer, is_walked);
    const std::lock_guard lock(mutex);
    note(trainer, results, outcome);
    CHECK(trainer.backend().captures == 1);
    CHECK(trainer.backend().replays == steps - 1);
  });
  for (const std::string& error : errors) CHECK(error == "");
  return outcome;
}
/// Recorded steps, which have the bits of walked ones.
template <class P> Outcome replayed() {
  Outcome replayed = train<P>();
  const Outcome walked = train<P>(true);
  CHECK(replayed.losses.size() == std::size_t(steps));
  CHECK(replayed.losses == walked.losses);
  CHECK(replayed.norms == walked.norms);
  CHECK(replayed.tensors == walked.tensors);
  return replayed;
}

/// One rank, on the host's own memory.
template <Deterministic Bits> const Outcome& one_rank() {
  using One = On<Parallel{}, 0, Bits>;
  static const Outcome outcome = [] {
    Outcome result;
    Trainer<One, emulated::Card> trainer(11);
    note(trainer, launch(trainer, false), result);
    return result;
  }();
  return outcome;
}

using TwoOfZero3 = On<Parallel{.data = 2}, 3, invariant>;

}  // namespace

TEST_CASE("trainer.device_ranks.fixed_trees_have_the_bits_of_one_rank") {
  const Outcome &one = one_rank<invariant>(), sharded = replayed<TwoOfZero3>(),
                split = replayed<On<Parallel{.data = 2, .pipeline = 2}, 0, invariant>>();
  for (const Outcome* many : {&sharded, &split}) {
    CHECK(many->ranks_agree);
    CHECK(many->tensors == one.tensors);
    CHECK(many->norms == one.norms);
    CHECK(many->losses.size() == one.losses.size());
  }
}

/// The library adds in an order of its own: as tests/unit/trainer/ranks_test.cpp.
TEST_CASE("trainer.device_ranks.native_sums_follow_one_rank") {
  const Outcome &one = one_rank<invariant>(),
                many = replayed<On<Parallel{.data = 2, .tensor = 2}, 1, free_order>>();
  CHECK(many.ranks_agree);
  CHECK(ranks::difference(one.tensors, many.tensors) < 2e-2);
  REQUIRE(many.losses.size() == one.losses.size());
  for (std::size_t i = 0; i < one.losses.size(); ++i) {
    CHECK(many.losses[i] == Approx(one.losses[i]).epsilon(1e-4));
    CHECK(many.norms[i] == Approx(one.norms[i]).epsilon(1e-3));
  }
}

/// Before a step is recorded, and when it is replayed.
TEST_CASE("trainer.device_ranks.a_rank_that_is_gone_ends_the_others") {
  const int before = GENERATE(1, 2);
  const auto errors = on_all_cards<TwoOfZero3>({.deadline = 20}, true, [&](auto& trainer) {
    auto feed = feed_of(TwoOfZero3::policy);
    ranks::steps(trainer, 0, before, feed);
    if (trainer.communicator().rank() == 1) throw Error("rank 1", "the disk is full", "Empty it");
    ranks::steps(trainer, before, 4, feed);
  });
  INFO(errors[0]);
  CHECK(errors[1] == "rank 1: the disk is full. Empty it");
  // Where it is seen before the next transfer, or in a recorded step, there is no event to name.
  CHECK((errors[0].starts_with("rank 0, event ") || errors[0].starts_with("rank 0 (the step)") ||
         errors[0].starts_with("rank 0 (step ")));
  CHECK(errors[0].find("): lost rank 1 (a member is gone)") != std::string::npos);
}

TEST_CASE("trainer.device_ranks.a_rank_that_stalls_is_not_waited_for_for_ever") {
  const int before = GENERATE(0, 1, 2);
  std::atomic<bool> ended = false;
  const auto errors = on_all_cards<TwoOfZero3>({.deadline = 0.5}, false, [&](auto& trainer) {
    auto feed = feed_of(TwoOfZero3::policy);
    for (int step = 0; step < before; ++step) trainer.step().launch(feed, numbers_of(step));
    trainer.step().catch_up();
    if (trainer.communicator().rank() == 1) {
      while (!ended) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return;
    }
    try {
      for (int step = before; step < 4; ++step) trainer.step().launch(feed, numbers_of(step));
      trainer.step().catch_up();
    } catch (...) {
      ended = true;
      throw;
    }
  });
  INFO(errors[0]);
  const std::string where = before == 0 ? "all_gather of parameters, micro-batch 0"
                                        : "step " + std::to_string(before + 1);
  CHECK(errors[0].find(where + "): got nothing from rank 1 for 0.5 seconds") != std::string::npos);
}

/// A host that is ahead waits for all its steps together, but for none longer than the deadline.
TEST_CASE("trainer.device_ranks.recorded_steps_are_waited_for_one_by_one") {
  std::atomic<std::size_t> seen = 0;
  const auto errors = on_all_cards<TwoOfZero3>({.deadline = 1}, false, [&](auto& trainer) {
    auto feed = feed_of(TwoOfZero3::policy);
    for (int step = 0; step < steps; ++step) {
      if (trainer.communicator().rank() == 1)
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
      trainer.step().launch(feed, numbers_of(step));
    }
    seen += trainer.step().read_out().size();
  });
  for (const std::string& error : errors) CHECK(error == "");
  CHECK(seen == std::size_t(2 * steps));
}

/// All ranks run it again, call by call, between recorded steps that change nothing.
TEST_CASE("trainer.device_ranks.a_recorded_step_that_fails_is_named_by_all") {
  const auto errors = on_all_cards<TwoOfZero3>({.deadline = 20}, false, [](auto& trainer) {
    auto feed = feed_of(TwoOfZero3::policy);
    for (int step = 0; step < steps; ++step) {
      StepNumbers n = numbers_of(step);
      if (step == 1) n.learning_rate = 1e36;  // weights whose products overflow
      trainer.step().launch(feed, n);
    }
    trainer.step().catch_up();
  });
  for (const std::string& error : errors) {
    INFO(error);
    CHECK(error.find("step 3") != std::string::npos);
    CHECK(error.find("first tensor with one that is not: ") != std::string::npos);
  }
}
