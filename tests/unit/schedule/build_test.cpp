// What schedules consist of: shares of memory, bytes on the wire, buckets, pipeline orders.
// Compiling most of it is the test.
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/schedule.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <utility>

#include "small_policies.hpp"

namespace {

using namespace ctrain;

constexpr ParameterTable parameters_1b3 = parameters_of(erlangshen_1b3);
static_assert(parameters_1b3.count() == 1257371650);

// Memory: 2 bytes a parameter, 2 a gradient, 12 for master copy and moments (arXiv 1910.02054).
// Tables count in 1e7 bytes, rounded; padding of shards is below that.
constexpr ElementBytes mixed{.parameter = 2, .gradient = 2, .state = 12};

constexpr std::int64_t hundredths_of_GB(bytes b) {
  return (b + 5000000) / 10000000;
}
constexpr StateShares shares(int ranks, int stage) {
  const Grid grid{.data = ranks};
  return state_shares(stage_layout(parameters_1b3, grid, 64 * MiB, mixed, 0), grid, stage, mixed);
}
constexpr bool shares_are(int stage, std::int64_t one, std::int64_t two, std::int64_t four,
                          std::int64_t eight) {
  return hundredths_of_GB(shares(1, stage).total()) == one &&
         hundredths_of_GB(shares(2, stage).total()) == two &&
         hundredths_of_GB(shares(4, stage).total()) == four &&
         hundredths_of_GB(shares(8, stage).total()) == eight;
}
static_assert(shares_are(0, 2012, 2012, 2012, 2012));
static_assert(shares_are(1, 2012, 1257, 880, 692));
static_assert(shares_are(2, 2012, 1132, 692, 472));
static_assert(shares_are(3, 2012, 1006, 503, 251));
static_assert(shares(4, 3).parameters * 4 - shares(1, 0).parameters < 64 * 1024);

// Bytes that a rank sends: 2 of each element for sums, 2 for gathers, times (n - 1) / n.
constexpr bytes sent(int ranks, int stage, ElementBytes size, int micro_batches = 1) {
  const Split split{.grid = {.data = ranks},
                    .zero = {.stage = stage},
                    .layers = 24,
                    .micro_batches = micro_batches,
                    .size = size};
  return least_bytes_sent(split,
                          stage_layout(parameters_1b3, split.grid, split.zero.bucket, size, 0));
}
constexpr bool sends(int stage, ElementBytes size, std::int64_t two, std::int64_t four,
                     std::int64_t eight) {
  return hundredths_of_GB(sent(2, stage, size)) == two &&
         hundredths_of_GB(sent(4, stage, size)) == four &&
         hundredths_of_GB(sent(8, stage, size)) == eight;
}
static_assert(sends(0, {}, 503, 754, 880));
static_assert(sends(0, mixed, 251, 377, 440) && sends(1, mixed, 251, 377, 440) &&
              sends(2, mixed, 251, 377, 440));
static_assert(sends(3, mixed, 377, 566, 660));
// With accumulation stages 0 and 1 send the same, stage 2 gradients and stage 3 all for each.
static_assert(sent(4, 1, mixed, 8) == sent(4, 1, mixed) &&
              sent(4, 0, mixed, 8) == sent(4, 0, mixed));
constexpr bytes records = 3 * Split::record;  // to three others
static_assert(sent(4, 2, mixed, 7) - records == 4 * (sent(4, 2, mixed) - records));
static_assert(sent(4, 3, mixed, 8) - records == 8 * (sent(4, 3, mixed) - records));

// The real tables send exactly that; 1.3B on 2, 4 and 8 data ranks is proved in the front end.
template <int Ranks, int Stage> struct Large {
  static constexpr Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 4},
                                 .parallel = {.data = Ranks},
                                 .zero = {.stage = Stage},
                                 .device = a100_40gb};
};
static_assert(check_schedule<Large<2, 0>>() && check_schedule<Large<4, 1>>() &&
              check_schedule<Large<8, 2>>() && check_schedule<Large<8, 3>>());
static_assert(bytes_sent(ScheduleOf<Large<8, 3>>::schedule, 0) == sent(8, 3, ElementBytes{}, 4));

// Buckets: whole units from the head down; deeper models take more units a bucket.
constexpr StageLayout layout_1b3 = stage_layout(parameters_1b3, Grid{.data = 8}, 64 * MiB, {}, 0);
static_assert(layout_1b3.buckets.size == 25 && layout_1b3.buckets.rows[0].first == 24 &&
              layout_1b3.buckets.rows[0].units == 2 && layout_1b3.buckets.rows[24].first == 0);
static_assert(layout_1b3.buckets.rows[3].elements % (16 * 8) == 0);
constexpr StageLayout deep =
    stage_layout(parameters_of({.layers = 1000, .hidden = 16, .heads = 1, .feed_forward = 16}),
                 Grid{}, 1, {}, 0);
static_assert(deep.buckets.size <= most_buckets && deep.buckets.rows[0].units == 16);
static_assert(deep.buckets.rows[deep.buckets.size - 1].first == 0);

// Tensor ranks hold shares of matrices and the whole of norms and output biases: all of it together
// is the model and the copies.
constexpr std::int64_t unsplit_in_block(const ModelShape& m) {
  return 6 * std::int64_t{m.hidden};  // two norms, two output biases
}
static_assert(2 * unit_elements(parameters_of(erlangshen_1b3, 2), Segment::block) -
                  unit_elements(parameters_1b3, Segment::block) ==
              unsplit_in_block(erlangshen_1b3));

/// How many forwards stand before the first backward, and how many micro-batches are kept at most.
struct Order {
  int warm_up = 0, most_kept = 0;
};
template <int Capacity> constexpr Order order_of(const StageTable<Capacity>& table) {
  Order order;
  int kept = 0;
  bool backward_seen = false;
  for (const Event& e : table.events) {
    const bool computes = e.kind == EventKind::compute;
    backward_seen |= computes && (e.work == Work::backward || e.work == Work::backward_input);
    order.warm_up += computes && e.work == Work::forward && !backward_seen;
    kept += e.kind == EventKind::acquire;
    kept -= e.kind == EventKind::release;
    if (kept > order.most_kept) order.most_kept = kept;
  }
  return order;
}
template <PipelineOrder Which> struct FourStages {
  static constexpr Policy policy{.batch = {.packed_tokens = 2048, .accumulation = 8},
                                 .parallel = {.pipeline = 4, .order = Which},
                                 .device = a100_40gb};
};
using OneForwardOneBackward = ScheduleOf<FourStages<PipelineOrder::one_forward_one_backward>>;
// One forward more than Megatron counts as warm-up stands before the first backward: that of the
// steady state.
static_assert(order_of(OneForwardOneBackward::schedule.tables[0]).warm_up - 1 == 3 &&
              order_of(OneForwardOneBackward::schedule.tables[1]).warm_up - 1 == 2 &&
              order_of(OneForwardOneBackward::schedule.tables[2]).warm_up - 1 == 1 &&
              order_of(OneForwardOneBackward::schedule.tables[3]).warm_up - 1 == 0);
static_assert(order_of(OneForwardOneBackward::schedule.tables[0]).most_kept == 4 &&
              order_of(OneForwardOneBackward::schedule.tables[1]).most_kept == 3 &&
              order_of(OneForwardOneBackward::schedule.tables[2]).most_kept == 2 &&
              order_of(OneForwardOneBackward::schedule.tables[3]).most_kept == 1);
// ZB-H1 keeps no more on any stage than 1F1B on the first.
using ZeroBubble = ScheduleOf<FourStages<PipelineOrder::zero_bubble>>;
static_assert(order_of(ZeroBubble::schedule.tables[0]).most_kept == 4 &&
              order_of(ZeroBubble::schedule.tables[1]).most_kept <= 4 &&
              order_of(ZeroBubble::schedule.tables[2]).most_kept <= 4 &&
              order_of(ZeroBubble::schedule.tables[3]).most_kept <= 4);

// One data rank has nothing to share.
using Alone = small::Policy<Parallel{}, 3, 2>;
static_assert(ScheduleOf<Alone>::split.zero.stage == 0 && check_schedule<Alone>());
static_assert(bytes_sent(ScheduleOf<Alone>::schedule, 0) == 0);

static_assert(collectives_are_exact<1> && collectives_are_exact<7> && collectives_are_exact<16>);

}  // namespace

TEST_CASE("schedule.build.equal_policies_have_equal_hashes_and_any_change_another") {
  const auto hash = []<class P>() { return hash_of(ScheduleOf<P>::schedule); };
  const std::uint64_t one = hash.operator()<small::Policy<Parallel{.data = 2}, 1, 2>>();
  CHECK(one == hash.operator()<small::Policy<Parallel{.data = 2}, 1, 2>>());
  CHECK(one != hash.operator()<small::Policy<Parallel{.data = 4}, 1, 2>>());
  CHECK(one != hash.operator()<small::Policy<Parallel{.data = 2}, 2, 2>>());
  CHECK(one != hash.operator()<small::Policy<Parallel{.data = 2}, 1, 3>>());
  auto changed = ScheduleOf<small::Policy<Parallel{.data = 2}, 1, 2>>::schedule;
  changed.tables[0].events[3].first += 1;
  CHECK(one != hash_of(changed));
}

TEST_CASE("schedule.collectives.up_to_64_members_are_exact") {
  const auto check = []<int Members>() { CHECK(collectives_are_exact<Members>); };
  [&]<int... Members>(std::integer_sequence<int, Members...>) {
    (check.template operator()<Members>(), ...);
  }
  (std::integer_sequence<int, 1, 2, 3, 5, 8, 12, 16, 31, 32, 64>{});
}
