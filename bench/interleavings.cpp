// Every order in which ranks and transfers can happen: a million random ones over the tables of
// many splits, with messages that nobody buffers. None may hang, disagree or compute anything but
// what one rank alone does.

#include "../tests/unit/schedule/simulator.hpp"
#include "../tests/unit/schedule/small_policies.hpp"
#include "report.hpp"

int main(int argc, char** argv) {
  const Options options(argc, argv, {{"runs", "1000000"}});
  bench::Report report(options);
  int layouts = 0;
  small::each(small::All{}, [&]<class P>() { ++layouts; });
  const int each = (options.number("runs") + layouts - 1) / layouts;

  std::int64_t all = 0, right = 0;
  std::uint64_t actions = 0;
  small::each(small::All{}, [&]<class P>() {
    static_assert(ctrain::check_schedule<P>());
    const auto tables = simulator::tables_of(ctrain::ScheduleOf<P>::schedule);
    simulator::Simulator s(tables, tables);
    std::int64_t outcomes[5] = {};
    for (int seed = 0; seed < each; ++seed) ++outcomes[int(s.run(std::uint64_t(seed)))];
    const ctrain::Parallel& p = P::policy.parallel;
    report.row({{"data", p.data},
                {"tensor", p.tensor},
                {"sequence", p.sequence},
                {"pipeline", p.pipeline},
                {"zero_bubble", p.order == small::zero_bubble},
                {"stage", P::policy.zero.stage},
                {"micro", P::policy.batch.accumulation},
                {"runs", each},
                {"right", outcomes[int(simulator::Outcome::right)]},
                {"hang", outcomes[int(simulator::Outcome::hangs)]},
                {"wrong", each - outcomes[int(simulator::Outcome::right)] -
                              outcomes[int(simulator::Outcome::hangs)]}});
    all += each, right += outcomes[0], actions += s.actions();
  });
  report.fact("runs", all);
  report.fact("right", right);
  report.fact("actions", actions);
  return right == all ? 0 : 1;
}
