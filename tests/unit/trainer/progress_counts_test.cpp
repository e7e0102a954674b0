#include <ctrain/trainer/progress_counts.hpp>

#include <catch2/catch.hpp>

namespace {

using namespace ctrain;

constexpr std::int64_t bar_total(std::int64_t batch, std::int64_t ranks) {
  const std::int64_t train = batches_per_epoch(34334, batch, ranks);
  const ValidationInterval every_1000{.batches = 1000};
  return EpochPlan{train, batches_per_epoch(4316, 32, ranks), validation_period(every_1000, train)}
      .total();
}
static_assert(bar_total(4, 1) == 9664);
static_assert(bar_total(4, 2) == 4564);
static_assert(bar_total(1, 1) == 38924);

constexpr EpochPlan plan{10, 3, 4};
static_assert(plan.total() == 10 + 2 * 3);
static_assert(!plan.validates_after(2) && plan.validates_after(3) && plan.validates_after(7));
static_assert(!plan.validates_after(9), "the tail is not validated");
static_assert(plan.steps(1) == 10 && plan.steps(4) == 3);

static_assert(validation_period({.share = 1.0}, 8584) == 8584);
static_assert(validation_period({.share = 0.25}, 10) == 2);
static_assert(validation_period({.share = 0.01}, 10) == 1);
static_assert(validation_period({.share = 1.0}, 0) == 1);
static_assert(validation_period({.batches = 10}, 10) == 10);

static_assert(sanity_batches(2, 135) == 2 && sanity_batches(2, 1) == 1);
static_assert(sanity_batches(-1, 135) == 135 && sanity_batches(0, 135) == 0);

static_assert(epoch_limit(false, 0, -1) == 1000 && epoch_limit(false, 0, 500) == -1);
static_assert(epoch_limit(true, -1, -1) == -1 && epoch_limit(true, 5, 500) == 5);

static_assert(saves_on_train_epoch_end({.share = 1.0}));
static_assert(!saves_on_train_epoch_end({.share = 0.5}));
static_assert(saves_on_train_epoch_end({.batches = 1}) &&
              !saves_on_train_epoch_end({.batches = 9}));

TEST_CASE("trainer.progress_counts.a_point_makes_a_share") {
  const std::string place = "flag --val_check_interval";
  CHECK(parse_validation_interval("1.0", place) == ValidationInterval{.share = 1.0});
  CHECK(parse_validation_interval(".25", place) == ValidationInterval{.share = 0.25});
  CHECK(parse_validation_interval("1", place) == ValidationInterval{.batches = 1});
  CHECK(parse_validation_interval("1000", place) == ValidationInterval{.batches = 1000});
}

TEST_CASE("trainer.progress_counts.other_intervals_are_refused") {
  for (const char* text : {"", "x", "0", "-5", "0.0", "1.5", "-0.5", "1e3", "5.0", "nan", "0.5x",
                           "99999999999999999999", "1.0e999", "."})
    CHECK_THROWS_WITH(parse_validation_interval(text, "flag --val_check_interval"),
                      Catch::StartsWith("flag --val_check_interval: "));
}

TEST_CASE("trainer.progress_counts.an_interval_beyond_the_epoch_is_refused") {
  CHECK_THROWS_WITH(validation_period({.batches = 1000}, 999), Catch::Contains("only 999"));
}

}  // namespace
