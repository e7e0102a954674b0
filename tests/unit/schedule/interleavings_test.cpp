// Every order of what can happen next gives the same numbers, which are those of one rank alone.
#include <catch2/catch.hpp>

#include "simulator.hpp"
#include "small_policies.hpp"

TEST_CASE("schedule.interleavings.a_hundred_thousand_orders_all_end_and_agree_with_one_rank") {
  int runs = 0;
  small::each(small::All{}, [&]<class P>() {
    static_assert(ctrain::check_schedule<P>());
    const auto tables = simulator::tables_of(ctrain::ScheduleOf<P>::schedule);
    simulator::Simulator s(tables, tables);
    int right = 0;
    for (int seed = 0; seed < 5300; ++seed)
      right += s.run(std::uint64_t(seed)) == simulator::Outcome::right;
    CHECK(right == 5300);
    runs += right;
  });
  CHECK(runs >= 100000);
}
