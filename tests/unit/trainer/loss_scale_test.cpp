// Steps in fp16: a gradient that overflows skips its step, and nothing else changes.
#include <ctrain/policy/presets.hpp>

#include <catch2/catch.hpp>

#include "ranks.hpp"

namespace {

using namespace ctrain;

constexpr ModelShape small{.vocabulary = 256,
                           .positions = 48,
                           .layers = 2,
                           .hidden = 64,
                           .heads = 2,
                           .feed_forward = 128,
                           .hidden_dropout = 0,
                           .attention_dropout = 0};

constexpr Policy scaled_by(const LossScale& scale, int data = 1, int stage = 0) {
  return {.model = small,
          .batch = {.packed_tokens = 128, .sentences = 6, .length = 48, .accumulation = 2 / data},
          .precision = {.compute = Compute::fp16, .loss_scale = scale},
          .parallel = {.data = data},
          .zero = {.stage = stage, .bucket = 64 * KiB},
          .deterministic = Deterministic::layout_invariant,
          .device = host_memory(64 * MiB, 1)};
}

constexpr LossScale high{.rule = LossScaleRule::grad_scaler, .initial = 0x1p40f, .window = 3};
struct High {
  static constexpr Policy policy = scaled_by(high);
};
struct HighOnTwoRanks {
  static constexpr Policy policy = scaled_by(high, 2);
};
struct HighSharded {
  static constexpr Policy policy = scaled_by(high, 2, 2);
};
struct Low {
  static constexpr Policy policy = scaled_by(fixed_scale(1024));
};
struct TooHigh {
  static constexpr Policy policy = scaled_by(fixed_scale(0x1p60f));
};
struct Plain {
  static constexpr Policy policy = [] {
    Policy p = scaled_by({});
    p.precision.compute = Compute::fp32;
    return p;
  }();
};

/// Steps `first` to `first + count` - 1 of a run, each on the same sentences as ever.
template <class P> std::vector<StepResult> steps(Trainer<P, Cpu>& trainer, int first, int count) {
  std::vector<StepResult> results;
  for (int i = first; i < first + count; ++i) {
    ranks::Sentences feed{P::policy.batch, P::policy.model.vocabulary};
    results.push_back(
        trainer.step().train(feed, {.step = i, .learning_rate = 1e-3, .weight_decay = 0.1f}));
  }
  return results;
}

template <class P> ranks::Tensors tensors(Trainer<P, Cpu>& trainer) {
  ranks::Tensors all;
  ranks::add_parts(trainer, all);
  return all;
}

}  // namespace

TEST_CASE("trainer.loss_scale.a_skipped_step_changes_nothing_but_the_scale") {
  Trainer<High, Cpu> trainer(1);
  const ranks::Tensors start = tensors(trainer);
  int skipped = 0;
  while (steps(trainer, skipped, 1)[0].skipped) {
    ++skipped;
    REQUIRE(tensors(trainer) == start);
    REQUIRE(trainer.step().loss_scale().scale == std::ldexp(1.0f, 40 - skipped));
  }
  CHECK(skipped > 3);
  CHECK(skipped < 40);
  CHECK(trainer.step().loss_scale().skipped_steps == skipped);

  // Updates count from the first that was made: one that started at this scale has the same bits.
  steps(trainer, skipped + 1, 3);
  Trainer<High, Cpu> fresh(1);
  LossScaleState there = first_loss_scale(high);
  there.scale = std::ldexp(1.0f, 40 - skipped);
  fresh.step().restore(there);
  steps(fresh, 0, 4);
  CHECK(tensors(trainer) == tensors(fresh));
  CHECK(trainer.step().loss_scale().scale == fresh.step().loss_scale().scale);
}

TEST_CASE("trainer.loss_scale.loss_and_norm_are_told_without_it") {
  Trainer<Low, Cpu> scaled(1);
  Trainer<Plain, Cpu> plain(1);
  const auto a = steps(scaled, 0, 5), b = steps(plain, 0, 5);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK_FALSE(a[i].skipped);
    CHECK(a[i].loss() == Approx(b[i].loss()).epsilon(2e-3));  // roundings to 11 bits
    CHECK(a[i].gradient_norm == Approx(b[i].gradient_norm).epsilon(1e-2));
  }
}

TEST_CASE("trainer.loss_scale.ranks_skip_the_same_steps_and_have_the_same_bits") {
  const ranks::Outcome one = ranks::train<High>(36);
  CHECK(one.tensors == ranks::train<HighOnTwoRanks>(36).tensors);
  CHECK(one.tensors == ranks::train<HighSharded>(36).tensors);
}

TEST_CASE("trainer.loss_scale.a_scale_that_cannot_be_lowered_ends_the_run") {
  Trainer<TooHigh, Cpu> trainer(1);
  const ranks::Tensors start = tensors(trainer);
  CHECK_THROWS_AS(steps(trainer, 0, 1), Error);
  CHECK(tensors(trainer) == start);
}
