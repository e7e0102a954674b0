// Every optimizer at the end of a real step, on one rank and on several that are threads.
#include <catch2/catch.hpp>

#include "ranks.hpp"

namespace {

using namespace ctrain;

constexpr ModelShape small{
    .vocabulary = 256, .positions = 48, .layers = 2, .hidden = 64, .heads = 2, .feed_forward = 128};

/// Eight micro-batches a step, however many ranks there are. The variance of 1-bit Adam is frozen
/// after 20 steps.
template <OptimizerKind Kind, int Data, Compat Form = Compat::paper, int Freeze = 20> struct On {
  static constexpr Policy policy{
      .model = small,
      .batch = {.packed_tokens = 128, .sentences = 6, .length = 48, .accumulation = 8 / Data},
      .optimizer = {.kind = Kind, .compat = Form, .compression = {.freeze_step = Freeze}},
      .parallel = {.data = Data},
      .zero = {.bucket = 64 * KiB},
      .device = host_memory(64 * MiB, 1)};
};
using K = OptimizerKind;
using OneBitOnTwo = On<K::one_bit_adam, 2>;

double mean_of_last(const std::vector<double>& losses, std::size_t count) {
  double sum = 0;
  for (std::size_t i = losses.size() - count; i < losses.size(); ++i) sum += losses[i];
  return sum / double(count);
}

/// Dropping any event of its steps that signs take, or changing a payload, breaks a promise.
template <class P> constexpr bool every_event_of_signs_counts() {
  constexpr const auto& schedule = ScheduleOf<P>::sign_training::schedule;
  if (!prove(schedule).holds()) return false;
  const auto& events = schedule.tables[0].events;
  for (int i = 0; i < events.size; ++i) {
    const Event& e = events.rows[i];
    const bool of_signs = e.work == Work::compress || e.work == Work::serve ||
                          e.from.store == Store::signs || e.from.store == Store::means;
    if (!of_signs || e.kind == EventKind::wait) continue;
    auto without = schedule;
    without.tables[0].events.rows[i] = {
        .kind = EventKind::compute, .work = Work::norm, .to = {Store::norms, 0}, .count = 1};
    if (prove(without).holds()) return false;
    auto shorter = schedule;
    shorter.tables[0].events.rows[i].size -= 16;
    if (e.starts_transfer() && prove(shorter).holds()) return false;
  }
  return true;
}
static_assert(every_event_of_signs_counts<OneBitOnTwo>());

}  // namespace

TEST_CASE("trainer.optimizers.lamb_on_ranks_follows_one_rank") {
  const ranks::Outcome one = ranks::train<On<K::lamb, 1>>(8), two = ranks::train<On<K::lamb, 2>>(8);
  CHECK(two.ranks_agree);
  CHECK(two.arena_is_the_plan);
  CHECK(ranks::difference(one.tensors, two.tensors) < 2e-2);
  CHECK(one.losses.back() < one.losses.front());
}

TEST_CASE("trainer.optimizers.one_bit_adam_is_adamw_until_the_variance_is_frozen") {
  const ranks::Outcome adam = ranks::train<On<K::adamw_torch, 2>>(20);
  const ranks::Outcome one_bit = ranks::train<OneBitOnTwo>(20);
  CHECK(adam.tensors == one_bit.tensors);
  CHECK(adam.sent == one_bit.sent);
}

TEST_CASE("trainer.optimizers.one_bit_adam_has_one_model_and_learns_as_adamw_does") {
  const ranks::Outcome adam = ranks::train<On<K::adamw_torch, 2>>(80);
  const ranks::Outcome two = ranks::train<OneBitOnTwo>(80);
  const ranks::Outcome four = ranks::train<On<K::one_bit_adam, 4>>(80);
  for (const ranks::Outcome* outcome : {&two, &four}) {
    CHECK(outcome->ranks_agree);
    CHECK(outcome->arena_is_the_plan);
    CHECK(std::fabs(mean_of_last(outcome->losses, 10) - mean_of_last(adam.losses, 10)) < 0.02);
  }
}

TEST_CASE("trainer.optimizers.one_bit_lamb_has_one_model_and_learns_as_lamb_does") {
  const ranks::Outcome lamb = ranks::train<On<K::lamb, 2>>(80);
  const ranks::Outcome one = ranks::train<On<K::one_bit_lamb, 1>>(80);
  const ranks::Outcome two = ranks::train<On<K::one_bit_lamb, 2>>(80);
  for (const ranks::Outcome* outcome : {&one, &two}) {
    CHECK(outcome->ranks_agree);
    CHECK(outcome->arena_is_the_plan);
    CHECK(mean_of_last(outcome->losses, 10) < mean_of_last(lamb.losses, 10) + 0.02);
  }
}

TEST_CASE("trainer.optimizers.one_bit_adam_sends_what_its_messages_hold") {
  const bytes before = ranks::train<OneBitOnTwo>(20).sent;
  const bytes after = ranks::train<OneBitOnTwo>(22).sent;
  const SignTraffic traffic = sign_traffic(GraphOf<OneBitOnTwo>::graph.parameters, 2);
  const bytes record = Split::record, signs = 2 * traffic.message();
  CHECK(after - before == 2 * (record + signs));
  // Each tensor's own 1-bit sum, but for the rounding of a message; 1/32 of sums in binary32.
  bytes each = 0;
  std::int64_t elements = 0;
  for (const Parameter& p : GraphOf<OneBitOnTwo>::graph.parameters.rows) {
    const int times = p.segment == Segment::block ? small.layers : 1;
    each += times * SignLayout{p.elements(), 2}.bytes_sent();
    elements += times * p.elements();
  }
  CHECK(signs >= each);
  CHECK(signs < each + 32);
  CHECK(double(signs) < 1.1 * double(4 * elements) / 32);
  CHECK(before / 20 > 25 * signs);
}

TEST_CASE("trainer.optimizers.deepspeed_loses_the_first_gradient") {
  const ranks::Outcome none = ranks::train<On<K::one_bit_adam, 1, Compat::deepspeed>>(0);
  const ranks::Outcome one = ranks::train<On<K::one_bit_adam, 1, Compat::deepspeed>>(1);
  const ranks::Outcome two = ranks::train<On<K::one_bit_adam, 1, Compat::deepspeed>>(2);
  CHECK(none.tensors == one.tensors);
  CHECK(none.tensors != two.tensors);
}
