#include <ctrain/trainer/learning_rate.hpp>

#include <catch2/catch.hpp>

namespace {

using namespace ctrain;

constexpr bool close(double got, double expected) {
  const double difference = got > expected ? got - expected : expected - got;
  return difference <= 5e-7 * expected;
}

// AFQMC in batches of 4, five epochs, one GPU.
constexpr RunSize afqmc{.samples = 34334, .batch = 4, .epochs = 5};
constexpr ScheduleSteps batches = schedule_steps(StepCounting::whole_batches, afqmc, 0.01);
constexpr ScheduleSteps samples = schedule_steps(StepCounting::samples, afqmc, 0.01);
static_assert(batches == ScheduleSteps{42920, 429});
static_assert(samples.total == 42917 && close(samples.warmup, 429.17));

constexpr LearningRate linear{.base = 1e-5, .steps = batches};
static_assert(linear.at(0) == 0);
static_assert(close(linear.at(1), 2.3310023e-8));
static_assert(close(linear.at(428), 9.97669e-6));
static_assert(linear.at(429) == 1e-5);
static_assert(close(linear.at(430), 9.999764656e-6));
static_assert(close(linear.at(21460), 5.050481278e-6));
static_assert(close(linear.at(42919), 2.35344e-10));
static_assert(linear.at(42920) == 0 && linear.at(50000) == 0);

constexpr LearningRate polynomial{
    .base = 5e-5, .steps = samples, .decay = Decay::polynomial, .power = 1, .end = 1e-7};
static_assert(polynomial.at(0) == 0);
static_assert(close(polynomial.at(429), 5e-5 * 429 / 429.17));
static_assert(close(polynomial.at(430), 4.99e-5 * (1 - 0.83 / 42487.83) + 1e-7));
static_assert(polynomial.at(42917) == 1e-7 && polynomial.at(42920) == 1e-7);

// Two ranks that accumulate three micro-batches; the generations round at different places.
constexpr RunSize shared{.samples = 103, .batch = 4, .ranks = 2, .accumulation = 3, .epochs = 2};
static_assert(schedule_steps(StepCounting::whole_batches, shared, 0).total == 52 / 6);
static_assert(schedule_steps(StepCounting::samples, shared, 0).total == 206 / 8 / 3);

// Without an end by epochs, max_steps is the total. No warm-up: the first rate is the base.
constexpr RunSize bounded{.samples = 100, .epochs = -1, .max_steps = 50};
static_assert(schedule_steps(StepCounting::samples, bounded, 0.1) == ScheduleSteps{50, 5});
static_assert(LearningRate{.base = 1, .steps = {10, 0}}.at(0) == 1);
static_assert(LearningRate{.base = 1, .steps = {10, 0}}.at(9) == 0.1);
static_assert(LearningRate{.base = 1, .steps = {0, 0}}.at(0) == 0);
static_assert(LearningRate{.base = 1, .steps = {5, 5}, .decay = Decay::polynomial}.at(5) == 0);

TEST_CASE("trainer.learning_rate.other_powers_bend_the_decay") {
  const LearningRate rate{
      .base = 1.0, .steps = {100, 0}, .decay = Decay::polynomial, .power = 2, .end = 0.2};
  CHECK(rate.at(0) == 1.0);
  CHECK(rate.at(50) == Approx(0.8 * 0.25 + 0.2));
}

TEST_CASE("trainer.learning_rate.endless_run_is_refused") {
  const RunSize endless{.samples = 100, .epochs = -1};
  CHECK_THROWS_WITH(schedule_steps(StepCounting::whole_batches, endless, 0.1),
                    Catch::Contains("--max_epochs"));
}

TEST_CASE("trainer.learning_rate.rising_decay_is_refused") {
  const LearningRate rising{.base = 1e-8, .decay = Decay::polynomial, .end = 1e-7};
  CHECK_THROWS_AS(require_decay(rising), Error);
  CHECK(require_decay(linear).base == 1e-5);
}

TEST_CASE("trainer.learning_rate.a_policys_float_counts_as_its_decimal") {
  CHECK(as_written(0.7f) == 0.7);
  CHECK(as_written(1e-5f) == 1e-5);
  const RunSize ten{.samples = 10, .epochs = 1};
  CHECK(schedule_steps(StepCounting::whole_batches, ten, as_written(0.7f)).warmup == 7);
}

}  // namespace
