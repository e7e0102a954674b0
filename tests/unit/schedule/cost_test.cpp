// What a modelled run of a schedule says.
#include <ctrain/model/cost.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/cost.hpp>
#include <ctrain/schedule/schedule.hpp>

#include <catch2/catch.hpp>

namespace {

using namespace ctrain;

template <Parallel Ranks, int ZeroStage, int MicroBatches> struct Large {
  static constexpr Policy policy{
      .batch = {.sentences = 4, .length = 512, .accumulation = MicroBatches},
      .precision = {Compute::bf16},
      .parallel = Ranks,
      .zero = {.stage = ZeroStage},
      .device = a100_40gb};
};

template <class P> Timeline run(const Rates& rates = {}) {
  return {ScheduleOf<P>::schedule, unit_costs(GraphOf<P>::graph, P::policy), rates};
}

}  // namespace

TEST_CASE("schedule.cost.arithmetic_of_blocks_is_what_papers_count") {
  using Alone = Large<Parallel{}, 0, 1>;
  const UnitCosts units = unit_costs(GraphOf<Alone>::graph, Alone::policy);
  const double blocks = 24 * (units.block.forward.flops + units.block.backward_input.flops +
                              units.block.backward_weight.flops);
  // Backward makes one product of attention again, which papers do not count: 2 T s h a block.
  const double again = 24 * 2.0 * 2048 * 512 * 2048;
  CHECK(blocks - again == Approx(training_flops(erlangshen_1b3, 2048, 2048.0 * 512)).epsilon(1e-9));
  using Halves = Large<Parallel{.tensor = 2}, 0, 1>;
  const UnitCosts half = unit_costs(GraphOf<Halves>::graph, Halves::policy);
  CHECK(2 * half.block.forward.flops == Approx(units.block.forward.flops).epsilon(1e-9));
}

TEST_CASE("schedule.cost.reductions_hide_behind_backward_where_the_link_is_fast") {
  using Alone = Large<Parallel{}, 0, 1>;
  using Two = Large<Parallel{.data = 2}, 0, 1>;
  const double alone = run<Alone>().seconds();
  const double quick = run<Two>({.link_bytes_per_second = 1e12}).seconds();
  const double slow = run<Two>({.link_bytes_per_second = 5e9}).seconds();
  CHECK(quick < 1.02 * alone);
  CHECK(slow > 5.0e9 / 5e9);  // 5.03 GB have to pass
}

TEST_CASE("schedule.cost.zero_bubble_waits_less_than_one_forward_one_backward") {
  constexpr auto zero_bubble = PipelineOrder::zero_bubble;
  const Rates quick{.link_bytes_per_second = 1e12, .seconds_per_message = 1e-7};
  const Timeline usual = run<Large<Parallel{.pipeline = 4}, 0, 8>>(quick);
  const Timeline better = run<Large<Parallel{.pipeline = 4, .order = zero_bubble}, 0, 8>>(quick);
  // (p - 1) / M of the ideal time, and about a third of that.
  CHECK(usual.idle_share(0) == Approx(3.0 / 11).margin(0.03));
  CHECK(better.seconds() < 0.88 * usual.seconds());
  CHECK(better.idle_share(0) < 0.6 * usual.idle_share(0));
}
