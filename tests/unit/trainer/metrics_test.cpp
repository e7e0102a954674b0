#include <ctrain/trainer/metrics.hpp>

#include <catch2/catch.hpp>

namespace {

using namespace ctrain;

TEST_CASE("trainer.metrics.running_mean_forgets_what_left_its_window") {
  RunningMean<> loss;
  CHECK(std::isnan(loss.mean()));
  loss.add(5);
  CHECK(loss.mean() == 5);
  for (int i = 1; i <= 20; ++i) loss.add(i);
  CHECK(loss.mean() == 10.5);
}

TEST_CASE("trainer.metrics.sample_mean_weighs_the_short_batch") {
  SampleMean loss;
  loss.add(1.0, 32);
  loss.add(3.0, 4);
  CHECK(loss.mean() == Approx(44.0 / 36.0));
  SampleMean other;
  other.add(2.0, 36);
  loss.add(other);
  CHECK(loss.mean() == Approx(116.0 / 72.0));
  CHECK(std::isnan(SampleMean{}.mean()));
}

TEST_CASE("trainer.metrics.binary_scores_follow_the_definitions") {
  ConfusionMatrix matrix(2);
  const auto add = [&](int label, int predicted, int times) {
    for (int i = 0; i < times; ++i) matrix.add(label, predicted);
  };
  add(0, 0, 50);
  add(0, 1, 10);
  add(1, 0, 5);
  add(1, 1, 35);
  matrix.add(-1, 1);  // no label: not counted
  CHECK(matrix.samples() == 100);
  CHECK(matrix.accuracy() == Approx(0.85));
  CHECK(matrix.majority_rate() == Approx(0.6));
  CHECK(matrix.precision(1) == Approx(35.0 / 45));
  CHECK(matrix.recall(1) == Approx(35.0 / 40));
  CHECK(matrix.f1(1) == Approx(2.0 * 35 / (40 + 45)));
  CHECK(matrix.macro_f1() == Approx((matrix.f1(0) + matrix.f1(1)) / 2));
}

TEST_CASE("trainer.metrics.ratios_without_cases_are_zero") {
  ConfusionMatrix matrix(3);
  CHECK(matrix.accuracy() == 0);
  CHECK(matrix.majority_rate() == 0);
  matrix.add(0, 0);
  CHECK(matrix.precision(2) == 0);
  CHECK(matrix.recall(2) == 0);
  CHECK(matrix.f1(2) == 0);
  CHECK(matrix.macro_f1() == Approx(1.0 / 3));
}

TEST_CASE("trainer.metrics.a_class_out_of_range_is_refused") {
  ConfusionMatrix matrix(2);
  CHECK_THROWS_AS(matrix.add(2, 0), Error);
  CHECK_THROWS_AS(matrix.add(0, -1), Error);
}

}  // namespace
