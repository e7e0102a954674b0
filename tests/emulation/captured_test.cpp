// The whole step on an emulated device, recorded once and replayed: the bits of a step that a host
// walks, losses and weights of the reference, and no wait between read-outs.
#include "captured.hpp"

#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/trainer.hpp>

#include "../unit/trainer/ranks.hpp"

namespace {

using namespace ctrain;
using emulation::Captured;

/// The scale rises after every second good step, until a gradient overflows.
constexpr LossScale rising{.rule = LossScaleRule::grad_scaler, .initial = 0x1p23f, .window = 2};

/// fp16 in BERT's form, so that both forms and more kernels are seen.
constexpr Policy tiny(Compute compute, OptimizerKind kind) {
  const bool is_bert = compute == Compute::fp16;
  return {
      .model = {.norm = is_bert ? NormPlacement::post_layer_norm : NormPlacement::pre_layer_norm,
                .activation = is_bert ? Activation::gelu_erf : Activation::gelu_tanh,
                .vocabulary = 64,
                .positions = 16,
                .layers = 2,
                .hidden = 32,
                .heads = 2,
                .feed_forward = 64},
      .batch = {.packed_tokens = 32, .sentences = 3, .length = 16, .accumulation = 2},
      .precision = {.compute = compute,
                    .loss_scale = compute == Compute::fp16 ? rising : LossScale{}},
      .optimizer = {.kind = kind},
      .device = gpu_24gb};
}
constexpr OptimizerKind first_kind(Compute compute) {
  return compute == Compute::fp16 ? OptimizerKind::adam_l2 : OptimizerKind::adamw_torch;
}
template <Compute C, OptimizerKind Kind = first_kind(C)> struct OnDevice {
  static constexpr Policy policy = tiny(C, Kind);
};

constexpr int steps = 6;

StepNumbers numbers_of(int step) {
  return {.seed = 3,
          .step = step,
          .learning_rate = 1e-3 * (step + 1),
          .weight_decay = 0.01f,
          .clip = 1.0f};
}
/// The last step has one micro-batch, not two.
template <class P> ranks::Sentences sentences() {
  return {P::policy.batch, P::policy.model.vocabulary, 2 * steps - 1};
}

struct Outcome {
  std::vector<StepResult> results;
  ranks::Tensors tensors;
  LossScaleState scale;

  void add(std::span<const StepResult> more) {
    results.insert(results.end(), more.begin(), more.end());
  }
};

template <class P, class B> Outcome train(int read_every, bool is_walked = false) {
  Trainer<P, B> trainer(7);
  if constexpr (Replays<B>) trainer.backend().is_walked = is_walked;
  ranks::Sentences feed = sentences<P>();
  Outcome outcome;
  for (int step = 0; step < steps; ++step) {
    CHECK(trainer.step().launch(feed, numbers_of(step)) == (step + 1 < steps ? 2 : 1));
    if (step % read_every == 0) outcome.add(trainer.step().read_out());
  }
  outcome.add(trainer.step().read_out());
  trainer.fetch_state();
  ranks::add_parts(trainer, outcome.tensors);
  outcome.scale = trainer.step().loss_scale();
  return outcome;
}

bool same_bits(const StepResult& a, const StepResult& b) {
  return a.loss_sum == b.loss_sum && a.sentences == b.sentences && a.correct == b.correct &&
         a.tokens == b.tokens && a.rows == b.rows && a.attended == b.attended &&
         a.micro_batches == b.micro_batches && a.skipped == b.skipped &&
         (a.gradient_norm == b.gradient_norm || a.skipped);
}

void near(const Outcome& got, const Outcome& wanted, double tolerance) {
  REQUIRE(got.results.size() == wanted.results.size());
  for (std::size_t i = 0; i < got.results.size(); ++i) {
    const StepResult &a = got.results[i], &b = wanted.results[i];
    INFO("step " << i);
    CHECK(a.loss() == Approx(b.loss()).epsilon(tolerance));
    if (!b.skipped) CHECK(a.gradient_norm == Approx(b.gradient_norm).epsilon(10 * tolerance));
    CHECK(a.sentences == b.sentences);
    CHECK(a.tokens == b.tokens);
    CHECK(a.attended == b.attended);
    CHECK(a.micro_batches == b.micro_batches);
    CHECK(a.skipped == b.skipped);
  }
  CHECK(got.scale == wanted.scale);
}

/// fp32: sums in other orders. 16 bits: values between operations are rounded to 8 or 11 bits, here
/// and there to the other neighbour. Seen: see the report of the commit; bounds are ten times that.
/// The reference fills no micro-batch up: that adds rows and sentences of zeros to sums, and
/// changes nothing else.
template <class P> void agrees_with_the_reference(const Outcome& got, double tolerance) {
  near(got, train<P, CpuReference>(1), tolerance);
}

template <class P> Outcome replayed() {
  static_assert(
      std::remove_reference_t<decltype(std::declval<Trainer<P, Captured>&>().step())>::runs_ahead);
  const Outcome replayed = train<P, Captured>(4), walked = train<P, Captured>(1, true);
  REQUIRE(replayed.results.size() == std::size_t(steps));
  for (std::size_t i = 0; i < replayed.results.size(); ++i)
    CHECK(same_bits(replayed.results[i], walked.results[i]));
  CHECK(replayed.tensors == walked.tensors);
  CHECK(replayed.scale == walked.scale);
  return replayed;
}

/// Some steps are skipped, the last is not.
void skips(const Outcome& got) {
  int skipped = 0;
  for (const StepResult& r : got.results) skipped += r.skipped;
  CHECK(skipped > 0);
  CHECK(skipped < steps - 1);
  CHECK_FALSE(got.results.back().skipped);
  CHECK(got.scale.skipped_steps == skipped);
}

}  // namespace

TEST_CASE("cuda.captured.replayed_steps_have_the_bits_of_walked_ones_fp32") {
  using P = OnDevice<Compute::fp32>;
  agrees_with_the_reference<P>(replayed<P>(), 2e-5);
}

TEST_CASE("cuda.captured.replayed_steps_have_the_bits_of_walked_ones_bf16") {
  using P = OnDevice<Compute::bf16>;
  agrees_with_the_reference<P>(replayed<P>(), 1e-2);
}

TEST_CASE("cuda.captured.replayed_steps_have_the_bits_of_walked_ones_fp16") {
  using P = OnDevice<Compute::fp16>;
  const Outcome got = replayed<P>();
  agrees_with_the_reference<P>(got, 2e-3);
  skips(got);
}

TEST_CASE("cuda.captured.replayed_steps_have_the_bits_of_walked_ones_lamb") {
  using P = OnDevice<Compute::fp16, OptimizerKind::lamb>;
  const Outcome got = replayed<P>();
  agrees_with_the_reference<P>(got, 2e-3);
  skips(got);
}

TEST_CASE("cuda.captured.nobody_waits_between_read_outs") {
  using P = OnDevice<Compute::fp32>;
  Trainer<P, Captured> trainer(7);
  ranks::Sentences feed = sentences<P>();
  auto& device = trainer.backend();
  trainer.step().launch(feed, numbers_of(0));
  const int waits = device.waits;
  trainer.step().launch(feed, numbers_of(1));
  const int launches = device.launches();
  for (int step = 2; step < 5; ++step) trainer.step().launch(feed, numbers_of(step));
  CHECK(device.waits == waits);
  CHECK(device.captures == 1);
  CHECK(device.replays == 4);
  CHECK(device.launches() == launches);  // none but those that were recorded
  CHECK(trainer.step().read_out().size() == 5);
  CHECK(device.waits == waits + 1);
  CHECK(trainer.arena().high_water() == trainer.plan().arena());
}

TEST_CASE("cuda.captured.a_step_that_fails_changes_nothing_and_is_named") {
  using P = OnDevice<Compute::fp32>;
  const auto launch = [](auto& trainer, auto& feed, int step) {
    StepNumbers n = numbers_of(step);
    if (step == 1) n.learning_rate = 1e36;  // weights whose products overflow
    trainer.step().launch(feed, n);
  };
  const auto tensors = [](auto& trainer) {
    ranks::Tensors all;
    ranks::add_parts(trainer, all);
    return all;
  };
  Trainer<P, Captured> trainer(7), two_steps(7);
  ranks::Sentences feed = sentences<P>(), same = feed;
  for (int step = 0; step < 2; ++step) launch(two_steps, same, step);
  two_steps.fetch_state();
  for (int step = 0; step < 5; ++step) launch(trainer, feed, step);
  std::string said;
  try {
    trainer.step().read_out();
  } catch (const Error& e) {
    said = e.what();
  }
  INFO(said);
  CHECK(said.find("step 3") != said.npos);
  CHECK(said.find("first tensor with one that is not: activation '") != said.npos);
  trainer.fetch_state();
  CHECK(tensors(trainer) == tensors(two_steps));
}
