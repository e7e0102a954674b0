// What every rank does in one optimizer step of Erlangshen-1.3B, for some ways to split it: as
// text, as a mermaid chart, or as a trace for ui.perfetto.dev, with modelled times. Each schedule
// was proved when this program was compiled.
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/cost.hpp>
#include <ctrain/schedule/render.hpp>
#include <ctrain/schedule/schedule.hpp>

#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace {

using namespace ctrain;

constexpr Policy split(const Parallel& parallel, int zero_stage, int micro_batches) {
  return {.batch = {.packed_tokens = 2048, .accumulation = micro_batches},
          .precision = {Compute::bf16},
          .parallel = parallel,
          .zero = {.stage = zero_stage},
          .device = h100_80gb};
}
constexpr auto zero_bubble = PipelineOrder::zero_bubble;

struct data_2 {
  static constexpr Policy policy = split({.data = 2}, 0, 1);
};
struct zero_1 {
  static constexpr Policy policy = split({.data = 8}, 1, 4);
};
struct zero_2 {
  static constexpr Policy policy = split({.data = 8}, 2, 4);
};
struct zero_3 {
  static constexpr Policy policy = split({.data = 8}, 3, 4);
};
struct tensor_2 {
  static constexpr Policy policy = split({.tensor = 2}, 0, 1);
};
struct sequence_2 {
  static constexpr Policy policy = split({.tensor = 2, .sequence = true}, 0, 1);
};
struct pipeline_4 {
  static constexpr Policy policy = split({.pipeline = 4}, 0, 8);
};
struct zero_bubble_4 {
  static constexpr Policy policy = split({.pipeline = 4, .order = zero_bubble}, 0, 8);
};
struct all_8 {
  static constexpr Policy policy = split({.data = 2, .tensor = 2, .pipeline = 2}, 1, 8);
};

struct Options {
  std::string policy = "data_2", format = "text";
  Rates rates;
};

template <class P> std::string print(const Options& options) {
  static_assert(check_schedule<P>());
  const auto& schedule = ScheduleOf<P>::schedule;
  if (options.format == "text") return render(schedule);
  const Timeline timeline(schedule, unit_costs(GraphOf<P>::graph, P::policy), options.rates);
  return options.format == "trace" ? render_trace(schedule, timeline)
                                   : render_mermaid(schedule, timeline);
}

struct Choice {
  const char* name;
  std::string (*print)(const Options&);
};
constexpr Choice choices[] = {{"data_2", print<data_2>},
                              {"zero_1", print<zero_1>},
                              {"zero_2", print<zero_2>},
                              {"zero_3", print<zero_3>},
                              {"tensor_2", print<tensor_2>},
                              {"sequence_2", print<sequence_2>},
                              {"pipeline_4", print<pipeline_4>},
                              {"zero_bubble_4", print<zero_bubble_4>},
                              {"all_8", print<all_8>}};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Prints what every rank does in one optimizer step."};
  app.option_defaults()->always_capture_default();
  Options options;
  std::vector<std::string> names;
  for (const Choice& c : choices) names.push_back(c.name);
  app.add_option("--policy", options.policy, "how the step is split")->check(CLI::IsMember(names));
  app.add_option("--format", options.format, "text, mermaid or trace")
      ->check(CLI::IsMember({"text", "mermaid", "trace"}));
  app.add_option("--flops", options.rates.flops_per_second, "arithmetic of a rank, a second")
      ->check(CLI::PositiveNumber);
  app.add_option("--memory", options.rates.memory_bytes_per_second, "bytes of memory, a second")
      ->check(CLI::PositiveNumber);
  app.add_option("--link", options.rates.link_bytes_per_second, "bytes a rank sends, a second")
      ->check(CLI::PositiveNumber);
  app.add_option("--message", options.rates.seconds_per_message, "seconds before a message")
      ->check(CLI::NonNegativeNumber);
  CLI11_PARSE(app, argc, argv);
  for (const Choice& c : choices)
    if (options.policy == c.name) std::fputs(c.print(options).c_str(), stdout);
  return 0;
}
