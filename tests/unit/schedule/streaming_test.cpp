// Tables of streamed steps: proved for many policies, and the proof sees what is wrong with them.
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/streaming_cost.hpp>
#include <ctrain/schedule/streaming_proof.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace ctrain;
using T = OffloadTo;

constexpr ModelShape tiny{
    .vocabulary = 64, .positions = 32, .layers = 3, .hidden = 32, .heads = 2, .feed_forward = 64};

/// A piece of 64 KiB is a whole unit of `tiny`; sizes do not matter to an order, so the test takes
/// the liberty of less.
constexpr Policy tiny_policy(Offload offload, int micro_batches = 1, Recompute recompute = {}) {
  offload.piece = 8 * KiB;
  return {.model = tiny,
          .batch = {.packed_tokens = 32, .length = 32, .accumulation = micro_batches},
          .weights = WeightLayout::plain,
          .recompute = recompute,
          .offload = offload,
          .device = host_memory(256 * MiB, 2)};
}

constexpr int most = 2048;
using StreamRows = StreamTable<most>;

StreamVerdict verdict_of(const StreamRows& table, const Policy& p, StreamPass pass) {
  using Walk = proof::StreamWalk<most, most>;
  const Graph g = derive_graph(p);
  const StreamUnits units = stream_units(g, p);
  const StreamPlan plan = plan_stream(g, p);
  return std::make_unique<Walk>(table, g, p, units, plan, pass)->walk();
}

struct Case {
  Policy policy;
  StreamPass pass;
  std::string name;
};

/// Every choice of homes that is valid, both ways of clipping, block and matrix, 1 to 3 buffers.
std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const auto add = [&](const Offload& o, int micros, Recompute recompute) {
    for (const StreamPass pass : {StreamPass::train, StreamPass::evaluate, StreamPass::flush}) {
      if (pass == StreamPass::flush && o.clipping != OffloadClipping::deferred) continue;
      const auto digit = [](auto value) { return std::to_string(int(value)); };
      cases.push_back({tiny_policy(o, micros, recompute), pass,
                       "optimizer " + digit(o.optimizer) + " gradients " + digit(o.gradients) +
                           " parameters " + digit(o.parameters) + " activations " +
                           digit(o.activations) + " clipping " + digit(o.clipping) + " unit " +
                           digit(o.unit) + " buffers " + digit(o.buffers) + " micro-batches " +
                           digit(micros) + " pass " + digit(pass)});
    }
  };
  for (const T optimizer : {T::host, T::disk})
    for (const T gradients : {T::host, T::disk})
      for (const T parameters : {T::none, T::host, T::disk})
        for (const T activations : {T::none, T::host, T::disk})
          for (const OffloadClipping clipping :
               {OffloadClipping::second_pass, OffloadClipping::deferred})
            for (const int buffers : {1, 2, 3}) {
              if (gradients > optimizer || parameters > optimizer) continue;
              const Offload o{.optimizer = optimizer,
                              .gradients = gradients,
                              .parameters = parameters,
                              .activations = activations,
                              .clipping = clipping,
                              .buffers = buffers};
              add(o, 1, Recompute::none);
              add(o, 3, Recompute::full);
              if (parameters == T::none) continue;
              Offload by_matrix = o;
              by_matrix.unit = StreamBy::matrix;
              add(by_matrix, 1, Recompute::full);
            }
  return cases;
}

StreamRows table_of(const Case& c) {
  const Graph g = derive_graph(c.policy);
  return build_stream<most, most>(g, c.policy, stream_units(g, c.policy), plan_stream(g, c.policy),
                                  c.pass);
}

}  // namespace

TEST_CASE("schedule.streaming.every_valid_choice_is_proved") {
  int proved = 0;
  for (const Case& c : all_cases()) {
    const StreamVerdict v = verdict_of(table_of(c), c.policy, c.pass);
    INFO(c.name << ": promise " << int(v.broken) << ", row " << v.row);
    REQUIRE(v.holds());
    ++proved;
  }
  CHECK(proved > 500);
}

// A wait that is left out is a race; the builder asks for none that another one implies.
TEST_CASE("schedule.streaming.a_wait_left_out_is_seen") {
  int left_out = 0, seen = 0;
  for (const Case& c : all_cases()) {
    if (c.pass != StreamPass::train || c.policy.offload.buffers != 2) continue;
    StreamRows table = table_of(c);
    for (int row = 0; row < table.size; ++row)
      for (std::int32_t& waited : table[row].after) {
        if (waited < 0) continue;
        const std::int32_t kept = std::exchange(waited, -1);
        ++left_out;
        seen += !verdict_of(table, c.policy, c.pass).holds();
        waited = kept;
      }
  }
  INFO(seen << " of " << left_out);
  CHECK(left_out > 1000);
  CHECK(seen >= left_out * 9 / 10);
}

TEST_CASE("schedule.streaming.a_wrong_number_is_seen") {
  const Case c{tiny_policy({.optimizer = T::disk,
                            .parameters = T::disk,
                            .activations = T::host,
                            .clipping = OffloadClipping::deferred},
                           2, Recompute::full),
               StreamPass::train, ""};
  const StreamRows right = table_of(c);
  REQUIRE(verdict_of(right, c.policy, c.pass).holds());
  const auto seen = [&](int row, auto&& change) {
    StreamRows wrong = right;
    change(wrong[row]);
    if (wrong[row] == right[row]) return true;
    return !verdict_of(wrong, c.policy, c.pass).holds();
  };
  for (int row = 0; row < right.size; ++row) {
    const StreamJob& j = right[row];
    INFO("row " << row << ", task " << int(j.task));
    if (j.unit >= 0) CHECK(seen(row, [](StreamJob& w) { w.unit = w.unit == 1 ? 2 : 1; }));
    if (j.piece >= 0) CHECK(seen(row, [](StreamJob& w) { ++w.piece; }));
    if (j.weights >= 0) CHECK(seen(row, [](StreamJob& w) { w.weights ^= 1; }));
    if (j.slot >= 0)
      CHECK(seen(row, [](StreamJob& w) { w.slot = std::int8_t(w.slot > 0 ? 0 : 1); }));
    if (j.layer >= 0) CHECK(seen(row, [](StreamJob& w) { w.layer = w.layer > 0 ? 0 : 1; }));
    if (j.micro >= 0) CHECK(seen(row, [](StreamJob& w) { w.micro ^= 1; }));
    CHECK(seen(row, [](StreamJob& w) { w.lane = StreamLane((int(w.lane) + 1) % stream_lanes); }));
    CHECK(seen(row, [&](StreamJob& w) { w.after[0] = row; }));
  }
}

TEST_CASE("schedule.streaming.a_row_left_out_or_done_twice_is_seen") {
  const Case c{tiny_policy({.optimizer = T::disk, .parameters = T::host}, 1), StreamPass::train,
               ""};
  const StreamRows right = table_of(c);
  for (int row = 0; row < right.size; ++row) {
    StreamRows less, more;
    for (int i = 0; i < right.size; ++i)
      for (int times = 0; times < 2; ++times) {
        const auto moved = [&](StreamJob job, int by) {
          for (std::int32_t& waited : job.after)
            if (waited >= row && waited >= 0) waited += by;
          return job;
        };
        if (times == 0 && i != row) less.add(moved(right[i], -1));
        if (times == 0 || i == row) more.add(i > row ? moved(right[i], 1) : right[i]);
      }
    INFO("row " << row << ", task " << int(right[row].task));
    CHECK(!verdict_of(less, c.policy, c.pass).holds());
    // To bring or to collect something twice does no harm; to count it twice does.
    const StreamTask task = right[row].task;
    if (task == StreamTask::update || task == StreamTask::norm || task == StreamTask::gather)
      CHECK(!verdict_of(more, c.policy, c.pass).holds());
  }
}

TEST_CASE("schedule.streaming.fingerprints_tell_tables_apart") {
  const Case a{tiny_policy({.optimizer = T::disk}), StreamPass::train, ""};
  Case b = a;
  b.policy.offload.buffers = 3;
  CHECK(hash_of(table_of(a)) == hash_of(table_of(a)));
  CHECK(hash_of(table_of(a)) != hash_of(table_of(b)));
}

// cost -------------------------------------------------------------------------------------------

namespace {

/// The article's least memory: 1.3B, one sentence of 512, here with exact AdamW.
struct OneSentence {
  static constexpr Policy policy{.model = erlangshen_1b3,
                                 .batch = {.sentences = 1, .length = 512},
                                 .precision = {Compute::bf16, Compute::bf16},
                                 .recompute = Recompute::full,
                                 .offload = {.optimizer = T::host,
                                             .parameters = T::host,
                                             .activations = T::host,
                                             .clipping = OffloadClipping::deferred},
                                 .device = a100_40gb};
};

}  // namespace

// 2 bytes a parameter twice down and once up, 28 of host memory and 2 for the norm.
TEST_CASE("schedule.streaming.the_1b3_model_moves_what_arithmetic_says") {
  STATIC_REQUIRE(check_stream<OneSentence>());
  const auto& table = StreamTableOf<OneSentence, StreamPass::train>::table;
  const StreamTraffic t = traffic_of(table, StreamOf<OneSentence>::graph, OneSentence::policy);
  const double parameters = 24 * 50.36e6;  // of blocks
  CHECK(double(t.down) == Approx(4 * parameters - 2 * 50.36e6).epsilon(0.03));
  const double kept = 24.0 * 512 * 2048 * 4, small_units = 4 * (1.05e6 + 4.2e6);
  CHECK(double(t.up) == Approx(2 * parameters + kept + small_units).epsilon(0.01));
  CHECK(double(t.touched) == Approx(28 * parameters + 24 * 43.5e6).epsilon(0.05));
  CHECK(t.read == 0);
}

// In forward the link brings weights while the host updates the next ones; in backward it brings
// them again: the step takes at most 1.15 times that.
TEST_CASE("schedule.streaming.the_1b3_step_is_as_fast_as_link_and_host_allow") {
  const auto& table = StreamTableOf<OneSentence, StreamPass::train>::table;
  for (const double link : {12e9, 25e9, 50e9})
    for (const double host : {50e9, 100e9, 200e9}) {
      const StreamTime time = time_of(
          table, StreamOf<OneSentence>::graph, OneSentence::policy,
          {.flops = 200e12, .device_bytes = 1500e9, .down = link, .up = link, .host_bytes = host});
      INFO("link " << link << ", host " << host << ": " << time.seconds << " s, bound "
                   << time.bound());
      const double down = time.busy[int(StreamLane::down)], up = time.busy[int(StreamLane::up)];
      CHECK(time.seconds >= time.bound());
      CHECK(time.seconds <=
            1.15 * (std::max(down / 2, time.busy[int(StreamLane::host)]) + std::max(down / 2, up)));
    }
}
