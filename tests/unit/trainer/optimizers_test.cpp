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

/// One step without decay and without a clip, which ranks alone would make of norms of their own.
template <class T> void one_step(T& trainer, ranks::Sentences& feed, int step) {
  trainer.step().train(feed, {.seed = 3, .step = step, .learning_rate = 1e-3});
}

/// What all ranks have not sent yet of each tensor: the server's, and the mean of the workers'.
template <class T> void add_lost(T& trainer, std::map<std::string, std::vector<double>>& lost) {
  for (const OptimizerBuffer b : {OptimizerBuffer::worker_error, OptimizerBuffer::server_error})
    for (const TensorPart& part : trainer.parts(b)) {
      const std::int64_t count =
          GraphOf<OneBitOnTwo>::graph.parameters.rows[part.parameter].elements();
      std::vector<double>& all = lost[part.name];
      all.resize(std::size_t(count));
      const bool of_worker = b == OptimizerBuffer::worker_error;
      const std::int64_t first = of_worker ? 0 : part.first;
      for (std::int64_t i = 0; i < part.count && first + i < count; ++i)
        all[std::size_t(first + i)] += double(part.data[i]) / (of_worker ? 2 : 1);
    }
}

/// Gives a trainer the values that add_parts() collects.
template <class T> void put_parts(T& trainer, const ranks::Tensors& all) {
  const std::pair<State, const char*> states[] = {{State::weight, "weight "},
                                                  {State::first_moment, "first_moment "},
                                                  {State::second_moment, "second_moment "}};
  for (const auto& [state, prefix] : states)
    for (const TensorPart& part : trainer.parts(state))
      std::copy_n(all.at(prefix + part.name).begin() + part.first, part.count, part.data);
  trainer.weights_changed();
}

/// After the freeze a step sends its records and one message of signs to and from each server: each
/// tensor's own 1-bit sum, which is 1/32 of a sum in binary32, but for the rounding of a message.
template <class P> void sends_what_its_messages_hold() {
  constexpr int data = P::policy.parallel.data;
  const bytes before = ranks::train<P>(20).sent;
  const bytes after = ranks::train<P>(22).sent;
  const SignTraffic traffic = sign_traffic(GraphOf<P>::graph.parameters, data);
  const bytes record = Split::record, signs = 2 * traffic.message();
  CHECK(after - before == 2 * (data - 1) * (record + signs));
  bytes each = 0;
  std::int64_t elements = 0;
  for (const Parameter& p : GraphOf<P>::graph.parameters.rows) {
    const int times = p.segment == Segment::block ? small.layers : 1;
    each += times * SignLayout{p.elements(), data}.bytes_sent();
    elements += times * p.elements();
  }
  CHECK((data - 1) * signs >= each);
  CHECK((data - 1) * signs < each + 32 * (data - 1));
  const double sum = 2.0 * (data - 1) / data * double(4 * elements);  // of an all-reduce
  CHECK(double((data - 1) * signs) < 1.15 * sum / 32);
  CHECK(double(before) / 20 > sum);
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

TEST_CASE("trainer.optimizers.signs_are_all_that_is_sent_after_the_freeze") {
  sends_what_its_messages_hold<OneBitOnTwo>();
  sends_what_its_messages_hold<On<K::one_bit_adam, 4>>();
  sends_what_its_messages_hold<On<K::one_bit_lamb, 2>>();
  sends_what_its_messages_hold<On<K::one_bit_lamb, 4>>();
}

TEST_CASE("trainer.optimizers.one_bit_adam_keeps_what_it_does_not_send") {
  // A step after the freeze, from one state and on the same sentences: on two ranks, and on one,
  // whose momentum is the paper's mean of the ranks' momenta, for it compresses nothing.
  using Two = OneBitOnTwo;
  using One = On<K::one_bit_adam, 1>;
  ranks::Tensors before, two, one;
  std::map<std::string, std::vector<double>> lost_before, lost;
  std::mutex mutex;
  ranks::on_all_ranks<Two>([&](auto& trainer) {
    const auto collect = [&](ranks::Tensors& tensors, auto& losses) {
      const std::lock_guard lock(mutex);
      ranks::add_parts(trainer, tensors);
      add_lost(trainer, losses);
    };
    ranks::Sentences feed{Two::policy.batch, Two::policy.model.vocabulary};
    for (int i = 0; i < 24; ++i) one_step(trainer, feed, i);
    collect(before, lost_before);
    trainer.communicator().gather({});  // nobody goes on before all have been read
    one_step(trainer, feed, 24);
    collect(two, lost);
  });
  ranks::on_all_ranks<One>([&](auto& trainer) {
    put_parts(trainer, before);
    ranks::Sentences feed{One::policy.batch, One::policy.model.vocabulary};
    feed.next = 8 * 24;
    one_step(trainer, feed, 24);
    ranks::add_parts(trainer, one);
  });
  for (const auto& [name, was] : lost_before) {
    const std::vector<float>&m = two.at("first_moment " + name),
          &mean = one.at("first_moment " + name), &v = two.at("second_moment " + name),
          &w = two.at("weight " + name), &w_before = before.at("weight " + name);
    CHECK(v == before.at("second_moment " + name));
    double largest = 0, furthest = 0, fault = 0;
    for (std::size_t i = 0; i < was.size(); ++i) {
      largest = std::max({largest, std::fabs(double(mean[i])), std::fabs(lost.at(name)[i])});
      // The paper's step: the momentum corrected at step 25, the variance as of step 20.
      const double denominator = std::sqrt(v[i] / (1 - std::pow(0.999, 20))) + 1e-8;
      const double corrected = m[i] / (1 - std::pow(0.9, 25)) / denominator;
      const double stepped = w_before[i] - 1e-3 * corrected;
      furthest = std::max(furthest, std::fabs(stepped - w[i]));
      fault = std::max(fault, std::fabs(m[i] + lost.at(name)[i] - was[i] - mean[i]));
    }
    CAPTURE(name);
    CHECK(fault <= 1e-5 * largest);  // sums of floats of that size
    CHECK(furthest < 1e-6);          // weights of one have roundings of 6e-8
  }
}

namespace {
/// The mean move of a weight in the first step that moves any, per learning rate: |m| / sqrt(v).
template <class P> double first_move(int steps) {
  double moved = 0;
  std::size_t count = 0;
  ranks::on_all_ranks<P>([&](auto& trainer) {
    ranks::Tensors before, after;
    ranks::add_parts(trainer, before);
    ranks::Sentences feed{P::policy.batch, P::policy.model.vocabulary};
    for (int i = 0; i < steps; ++i) one_step(trainer, feed, i);
    ranks::add_parts(trainer, after);
    for (const auto& [name, values] : after)
      if (name.find("weight bert.encoder.layer.0.intermediate.dense.weight") != name.npos)
        for (std::size_t i = 0; i < values.size(); ++i, ++count)
          moved += std::fabs(double(values[i]) - double(before.at(name)[i])) / 1e-3;
  });
  return moved / double(count);
}
}  // namespace

TEST_CASE("trainer.optimizers.forms_differ_in_bias_and_first_gradient") {
  using Paper = On<K::one_bit_adam, 1>;
  using DeepSpeed = On<K::one_bit_adam, 1, Compat::deepspeed>;
  CHECK(first_move<Paper>(1) == Approx(1).epsilon(1e-3));  // weights' roundings, and epsilon
  CHECK(first_move<DeepSpeed>(1) == 0);
  CHECK(first_move<DeepSpeed>(2) == Approx(0.1 / std::sqrt(0.001)).epsilon(1e-2));  // as above
  CHECK(first_move<On<K::one_bit_lamb, 1>>(1) > 0);
  CHECK(first_move<On<K::one_bit_lamb, 1, Compat::deepspeed>>(1) == 0);
  CHECK(first_move<On<K::one_bit_lamb, 1, Compat::deepspeed>>(2) > 0);
}
