// What ranks say when one of them is late, dead, or about to do something else.
#include <ctrain/backend/comm/agreement.hpp>
#include <ctrain/backend/comm/single.hpp>

#include <catch2/catch.hpp>

#include "comm_ranks.hpp"

using namespace ctrain;
using Catch::Contains;

namespace {

constexpr double deadline = 0.2, patience = 60;

void reduce(Threads& communicator, int index) {
  std::vector<float> data(100, 1.0f);
  communicator.wait(communicator.start({.data = data.data(),
                                        .size = bytes(data.size() * sizeof(float)),
                                        .name = {index, 2, "all_reduce data bucket 3"}}));
}

}  // namespace

TEST_CASE("backend.comm.every_rank_names_the_late_one_its_event_and_the_deadline") {
  // Of four, rank 0 exchanges with 2 and 1 only, and these wait for rank 3: it is 3 who is named.
  for (const int late : {3, 1}) {
    const auto errors = ranks::run({4, 1, 1}, deadline, [&](Threads& communicator) {
      reduce(communicator, 16);
      if (communicator.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(700));
      reduce(communicator, 17);
    });
    for (int r = 0; r < 4; ++r) {
      INFO(errors[r]);
      CHECK_THAT(errors[r], Contains("rank " + std::to_string(r) +
                                     ", event 17 (all_reduce data bucket 3, micro-batch 2): "));
      if (r != late) CHECK_THAT(errors[r].substr(10), Contains("rank " + std::to_string(late)));
    }
  }
}

TEST_CASE("backend.comm.a_ring_names_the_late_one_too") {
  const auto errors = ranks::run({5, 1, 1}, deadline, [&](Threads& communicator) {
    if (communicator.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(700));
    reduce(communicator, 17);
  });
  for (const int r : {0, 1, 3, 4}) CHECK_THAT(errors[r].substr(10), Contains("rank 2"));
}

TEST_CASE("backend.comm.a_rank_may_compute_for_longer_than_the_deadline") {
  // The deadline bounds a wait without any news, not the time between two waits.
  const auto errors = ranks::run({2, 1, 1}, 0.3, [&](Threads& communicator) {
    float one = 1;
    const int ticket = communicator.start({.data = &one, .size = sizeof one});
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    communicator.wait(ticket);
    reduce(communicator, 1);
  });
  CHECK(errors == std::vector<std::string>(2));
}

TEST_CASE("backend.comm.a_rank_that_ends_is_named_at_once") {
  const auto errors = ranks::run({4, 1, 1}, patience, [&](Threads& communicator) {
    reduce(communicator, 1);
    if (communicator.rank() != 2) reduce(communicator, 5);
  });
  for (const int r : {0, 1, 3}) {
    CHECK_THAT(errors[r], Contains("event 5"));
    CHECK_THAT(errors[r].substr(10), Contains("rank 2"));
  }
}

TEST_CASE("backend.comm.a_rank_that_ends_by_an_error_takes_the_others_along") {
  const auto errors = ranks::run({4, 1, 1}, patience, [&](Threads& communicator) {
    reduce(communicator, 1);
    if (communicator.rank() == 1) throw Error("disk", "is full", "");
    reduce(communicator, 5);
  });
  CHECK_THAT(errors[1], Contains("disk"));
  for (const int r : {0, 2, 3}) CHECK_THAT(errors[r].substr(10), Contains("rank 1"));
}

TEST_CASE("backend.comm.messages_of_unlike_size_are_an_error_on_both_sides") {
  const auto errors = ranks::run({2, 1, 1}, patience, [&](Threads& communicator) {
    std::vector<float> data(std::size_t(8 + 8 * communicator.rank()));
    communicator.wait(communicator.start(
        {.data = data.data(), .size = bytes(data.size() * sizeof(float)), .name = {3, 0, "sum"}}));
  });
  for (const std::string& error : errors) CHECK_THAT(error, Contains("event 3"));
  CHECK_THAT(errors[0] + errors[1], Contains("counts other bytes"));
}

TEST_CASE("backend.comm.ranks_that_agree_go_on") {
  const auto errors = ranks::run({3, 1, 1}, patience, [&](Threads& communicator) {
    agree(communicator, {{"the schedule", 7}, {"the number of samples", 100}});
  });
  CHECK(errors == std::vector<std::string>(3));
  Single alone;
  agree(alone, {{"the schedule", 7}});
}

TEST_CASE("backend.comm.ranks_that_disagree_all_name_both_values_and_who_has_them") {
  const auto errors = ranks::run({4, 1, 1}, patience, [&](Threads& communicator) {
    agree(communicator,
          {{"the policy", 1}, {"the schedule", communicator.rank() == 2 ? 0xbeefu : 0xcafeu}});
  });
  for (const std::string& error : errors)
    CHECK_THAT(error, Contains("the schedule is 0xbeef on rank 2; 0xcafe on ranks 0, 1, 3"));
}

TEST_CASE("backend.comm.ranks_that_compare_other_things_disagree") {
  const auto errors = ranks::run({2, 1, 1}, patience, [&](Threads& communicator) {
    if (communicator.rank() == 0)
      agree(communicator, {{"the schedule", 7}});
    else
      agree(communicator, {{"the schedule", 7}, {"the policy", 7}});
  });
  for (const std::string& error : errors)
    CHECK_THAT(error, Contains("the list of what ranks compare"));
}
