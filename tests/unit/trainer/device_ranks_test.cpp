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
  return errors;
}

constexpr int steps = 3;

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
  return {p.batch, p.model.vocabulary};
}

template <class P> Outcome train() {
  Outcome outcome;
  std::mutex mutex;
  const auto errors = on_all_cards<P>(DeviceRanksOptions::of(P::policy), true, [&](auto& trainer) {
    const auto results = ranks::steps(trainer, 0, steps, feed_of(P::policy));
    const std::lock_guard lock(mutex);
    note(trainer, results, outcome);
  });
  for (const std::string& error : errors) CHECK(error == "");
  return outcome;
}

/// One rank, on the host's own memory.
template <Deterministic Bits> const Outcome& one_rank() {
  using One = On<Parallel{}, 0, Bits>;
  static const Outcome outcome = [] {
    Outcome result;
    Trainer<One, emulated::Card> trainer(11);
    note(trainer, ranks::steps(trainer, 0, steps, feed_of(One::policy)), result);
    return result;
  }();
  return outcome;
}

using TwoOfZero3 = On<Parallel{.data = 2}, 3, invariant>;

}  // namespace

TEST_CASE("trainer.device_ranks.fixed_trees_have_the_bits_of_one_rank") {
  const Outcome &one = one_rank<invariant>(), sharded = train<TwoOfZero3>(),
                split = train<On<Parallel{.data = 2, .pipeline = 2}, 1, invariant>>();
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
                many = train<On<Parallel{.data = 2, .tensor = 2}, 1, free_order>>();
  CHECK(many.ranks_agree);
  CHECK(ranks::difference(one.tensors, many.tensors) < 2e-2);
  REQUIRE(many.losses.size() == one.losses.size());
  for (std::size_t i = 0; i < one.losses.size(); ++i) {
    CHECK(many.losses[i] == Approx(one.losses[i]).epsilon(1e-4));
    CHECK(many.norms[i] == Approx(one.norms[i]).epsilon(1e-3));
  }
}

TEST_CASE("trainer.device_ranks.a_rank_that_is_gone_ends_the_others") {
  const auto errors = on_all_cards<TwoOfZero3>({.deadline = 20}, true, [](auto& trainer) {
    auto feed = feed_of(TwoOfZero3::policy);
    ranks::steps(trainer, 0, 1, feed);
    if (trainer.communicator().rank() == 1) throw Error("rank 1", "the disk is full", "Empty it");
    ranks::steps(trainer, 1, 3, feed);
  });
  INFO(errors[0]);
  CHECK(errors[1] == "rank 1: the disk is full. Empty it");
  // Where it is seen before the next transfer, there is no event to name.
  CHECK((errors[0].starts_with("rank 0, event ") || errors[0].starts_with("rank 0 (the step)")));
  CHECK(errors[0].find("): lost rank 1 (a member is gone)") != std::string::npos);
}

TEST_CASE("trainer.device_ranks.a_rank_that_stalls_is_not_waited_for_for_ever") {
  std::atomic<bool> ended = false;
  const auto errors = on_all_cards<TwoOfZero3>({.deadline = 0.5}, false, [&](auto& trainer) {
    auto feed = feed_of(TwoOfZero3::policy);
    ranks::steps(trainer, 0, 1, feed);
    if (trainer.communicator().rank() == 1) {
      while (!ended) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return;
    }
    try {
      ranks::steps(trainer, 1, 3, feed);
    } catch (...) {
      ended = true;
      throw;
    }
  });
  INFO(errors[0]);
  CHECK(errors[0].find("all_gather of parameters, micro-batch 0): got nothing from rank 1 for 0.5 "
                       "seconds") != std::string::npos);
}
