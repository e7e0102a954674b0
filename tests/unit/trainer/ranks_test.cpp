// Many ranks do what one does: data parallel, every stage of ZeRO, pipelines. Ranks are threads.
#include "ranks.hpp"

#include <ctrain/schedule/cost.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <tuple>

namespace {

using namespace ctrain;

constexpr ModelShape small{
    .vocabulary = 256, .positions = 48, .layers = 4, .hidden = 64, .heads = 2, .feed_forward = 128};

/// `All` micro-batches a step, however many ranks there are.
template <int Data, int Stage, int All, Deterministic Bits, int Pipeline = 1,
          PipelineOrder Order = PipelineOrder::one_forward_one_backward,
          Compute Type = Compute::fp32>
struct On {
  static constexpr Policy policy{
      .model = small,
      .batch = {.packed_tokens = 128, .sentences = 6, .length = 48, .accumulation = All / Data},
      .precision = {.compute = Type},
      .weights = Stage == 3 ? WeightLayout::plain : WeightLayout::packed,
      .parallel = {.data = Data, .pipeline = Pipeline, .order = Order},
      .zero = {.stage = Stage, .bucket = 64 * KiB},
      .deterministic = Bits,
      .device = host_memory(64 * MiB, 1)};
};
constexpr auto free_order = Deterministic::fixed_layout;
constexpr auto invariant = Deterministic::layout_invariant;
constexpr auto zero_bubble = PipelineOrder::zero_bubble;

template <class P> const ranks::Outcome& outcome(int steps, int batches = 1 << 30) {
  static std::map<std::pair<int, int>, ranks::Outcome> known;
  const auto key = std::pair(steps, batches);
  if (!known.contains(key)) known[key] = ranks::train<P>(steps, batches);
  return known[key];
}

/// Equal to the single rank but for the order in which gradients are added: after 6 steps of rate
/// 1e-3 Adam has magnified roundings of 2^-24 where gradients are near zero.
template <class P, class One> void is_close_to_one_rank() {
  INFO(P::policy.parallel.data << " x " << P::policy.parallel.pipeline << ", stage "
                               << P::policy.zero.stage << ", order "
                               << int(P::policy.parallel.order));
  const ranks::Outcome &many = outcome<P>(6), &one = outcome<One>(6);
  CHECK(ranks::difference(one.tensors, many.tensors) < 2e-2);
  REQUIRE(many.losses.size() == one.losses.size());
  for (std::size_t i = 0; i < one.losses.size(); ++i) {
    CHECK(many.losses[i] == Approx(one.losses[i]).epsilon(1e-4));
    CHECK(many.norms[i] == Approx(one.norms[i]).epsilon(1e-3));
  }
  CHECK(many.evaluated.micro_batches == 5);
  CHECK(many.evaluated.sentences == one.evaluated.sentences);
  CHECK(many.evaluated.loss() == Approx(one.evaluated.loss()).epsilon(1e-3));
  CHECK(many.arena_is_the_plan);
}

template <class P, class One> void has_the_bits_of_one_rank(int batches = 1 << 30) {
  const ranks::Outcome &many = outcome<P>(6, batches), &one = outcome<One>(6, batches);
  CHECK(many.tensors == one.tensors);
  CHECK(many.norms == one.norms);
  CHECK(many.losses.size() == one.losses.size());
  CHECK(many.arena_is_the_plan);
}

}  // namespace

TEST_CASE("trainer.ranks.data_parallel_and_zero_follow_one_rank") {
  using One = On<1, 0, 4, free_order>;
  is_close_to_one_rank<On<2, 0, 4, free_order>, One>();
  is_close_to_one_rank<On<4, 0, 4, free_order>, One>();
  is_close_to_one_rank<On<2, 1, 4, free_order>, One>();
  is_close_to_one_rank<On<2, 2, 4, free_order>, One>();
  is_close_to_one_rank<On<2, 3, 4, free_order>, One>();
  is_close_to_one_rank<On<4, 3, 4, free_order>, One>();
}

TEST_CASE("trainer.ranks.ranks_that_are_no_power_of_two_follow_one_rank") {
  using One = On<1, 0, 3, free_order>;
  is_close_to_one_rank<On<3, 0, 3, free_order>, One>();
  is_close_to_one_rank<On<3, 2, 3, free_order>, One>();
}

TEST_CASE("trainer.ranks.pipelines_follow_one_rank") {
  using One = On<1, 0, 4, free_order>;
  is_close_to_one_rank<On<1, 0, 4, free_order, 2>, One>();
  is_close_to_one_rank<On<1, 0, 4, free_order, 4>, One>();
  is_close_to_one_rank<On<1, 0, 4, free_order, 2, zero_bubble>, One>();
  is_close_to_one_rank<On<1, 0, 4, free_order, 4, zero_bubble>, One>();
  is_close_to_one_rank<On<2, 1, 4, free_order, 2>, One>();
}

TEST_CASE("trainer.ranks.layout_invariant_bits_do_not_depend_on_ranks_or_stage") {
  using One = On<1, 0, 4, invariant>;
  has_the_bits_of_one_rank<On<2, 0, 4, invariant>, One>();
  has_the_bits_of_one_rank<On<4, 0, 4, invariant>, One>();
  has_the_bits_of_one_rank<On<2, 1, 4, invariant>, One>();
  has_the_bits_of_one_rank<On<4, 1, 4, invariant>, One>();
  has_the_bits_of_one_rank<On<2, 2, 4, invariant>, One>();
  has_the_bits_of_one_rank<On<4, 2, 4, invariant>, One>();
  has_the_bits_of_one_rank<On<2, 3, 4, invariant>, One>();
  has_the_bits_of_one_rank<On<4, 3, 4, invariant>, One>();
  has_the_bits_of_one_rank<On<1, 0, 4, invariant, 2>, One>();
  has_the_bits_of_one_rank<On<2, 1, 4, invariant, 2>, One>();
}

TEST_CASE("trainer.ranks.a_last_step_with_too_few_micro_batches_has_the_same_bits") {
  using One = On<1, 0, 4, invariant>;  // three steps: four, four and one or three micro-batches
  for (const int batches : {9, 11}) {
    has_the_bits_of_one_rank<On<4, 0, 4, invariant>, One>(batches);
    has_the_bits_of_one_rank<On<2, 1, 4, invariant>, One>(batches);
    has_the_bits_of_one_rank<On<2, 2, 4, invariant>, One>(batches);
    has_the_bits_of_one_rank<On<4, 3, 4, invariant>, One>(batches);
    has_the_bits_of_one_rank<On<2, 1, 4, invariant, 2>, One>(batches);
  }
}

TEST_CASE("trainer.ranks.bf16_has_layout_invariant_bits_too") {
  using One = On<1, 0, 8, invariant, 1, PipelineOrder::one_forward_one_backward, Compute::bf16>;
  has_the_bits_of_one_rank<
      On<4, 2, 8, invariant, 1, PipelineOrder::one_forward_one_backward, Compute::bf16>, One>();
  has_the_bits_of_one_rank<
      On<2, 0, 8, invariant, 2, PipelineOrder::one_forward_one_backward, Compute::bf16>, One>();
}

namespace {

/// What happens in a step, in any order: (index in the table, lane, micro-batch).
std::vector<std::tuple<int, int, int>> happenings(const std::vector<Span>& spans, int stage) {
  std::vector<std::tuple<int, int, int>> all;
  for (const Span& s : spans)
    if (s.stage == stage) all.emplace_back(s.index, s.lane, s.micro);
  std::ranges::sort(all);
  return all;
}

/// Two steps, of which the second is recorded.
template <class P> void records_what_the_model_foresees() {
  std::vector<std::vector<Span>> spans(std::size_t(P::policy.parallel.ranks()));
  ranks::on_all_ranks<P>([&](auto& trainer) {
    const ranks::Sentences feed{P::policy.batch, P::policy.model.vocabulary};
    ranks::steps(trainer, 0, 1, feed);
    trainer.step().record(&spans[std::size_t(trainer.communicator().rank())]);
    ranks::steps(trainer, 1, 2, feed);
  });
  const Timeline model(ScheduleOf<P>::schedule, unit_costs(GraphOf<P>::graph, P::policy), {});
  for (int rank = 0; rank < P::policy.parallel.ranks(); ++rank) {
    const std::vector<Span>& mine = spans[std::size_t(rank)];
    const int stage = grid_of(P::policy.parallel).at(rank).pipeline;
    CHECK(happenings(mine, stage) == happenings(model.spans(), stage));
    double clock = mine.front().begin;
    for (const Span& s : mine) {
      CHECK(s.begin <= s.end);
      if (s.lane == 0) CHECK(s.begin >= std::exchange(clock, s.end));
    }
  }
}

}  // namespace

TEST_CASE("trainer.ranks.a_recorded_step_has_the_events_of_the_modelled_one") {
  records_what_the_model_foresees<On<2, 1, 4, free_order>>();
  records_what_the_model_foresees<On<2, 3, 4, free_order>>();
  records_what_the_model_foresees<On<2, 1, 4, free_order, 2>>();
  records_what_the_model_foresees<On<1, 0, 4, free_order, 2, zero_bubble>>();
}
