// Where the time of an optimizer step goes, call by call: seconds of every kind of backend call in
// a step, and what the products among them reach of the machine's peak. Shapes are those of
// bench/step.cpp; the clock is read twice a call, a few hundred times a step.
//
//   bench/run.sh profile [--only NAME] [--repeats N] [--json FILE]
#include <ctrain/backend/cpu/cpu.hpp>
#include <ctrain/backend/cpu/peak.hpp>

#include <cstdlib>
#include <map>
#include <typeinfo>

#include "feeds.hpp"
#include "report.hpp"
#include "shapes.hpp"
#include <cxxabi.h>

namespace {

using namespace ctrain;

std::string name_of(const std::type_info& type) {
  char* const demangled = abi::__cxa_demangle(type.name(), nullptr, nullptr, nullptr);
  std::string name(demangled);
  std::free(demangled);
  for (std::size_t at; (at = name.find("ctrain::")) != std::string::npos;) name.erase(at, 8);
  return name;
}

struct Kind {
  double seconds = 0, operations = 0;
  int calls = 0;
};

/// What a product multiplies and adds; 0 for other calls.
double operations(const auto& call) {
  if constexpr (requires { call.weight.out; })
    return 2.0 * call.rows * call.weight.out * call.weight.in;
  else if constexpr (requires { call.d_weight; })
    return 2.0 * call.rows * call.out * call.in;
  else
    return 0;
}

/// Outputs and inputs of a product; nothing for other calls.
std::string shape_of(const auto& call) {
  if constexpr (requires { call.weight.out; })
    return " " + std::to_string(call.weight.out) + " x " + std::to_string(call.weight.in);
  else if constexpr (requires { call.d_weight; })
    return " " + std::to_string(call.out) + " x " + std::to_string(call.in);
  else
    return {};
}

/// The host's backend with a clock at every call.
class Timed : public Cpu {
 public:
  using Cpu::Cpu;

  template <class Call> void run(const Call& call) {
    const auto start = std::chrono::steady_clock::now();
    Cpu::run(call);
    Kind& kind = kinds[name_of(typeid(Call)) + shape_of(call)];
    kind.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    kind.operations += operations(call);
    ++kind.calls;
  }

  std::map<std::string, Kind> kinds;
};

template <class P>
void measure(const std::string& name, int sentence, const Options& options, bench::Report& report) {
  if (!options.text("only").empty() && options.text("only") != name) return;
  constexpr Policy policy = P::policy;
  Trainer<P, Timed> trainer;
  EqualSentences feed{policy.batch.sentence_bound(), sentence, policy.model.vocabulary};
  StepNumbers numbers{.seed = 1, .learning_rate = 1e-5, .weight_decay = 0.1f, .clip = 1.0f};
  const auto step = [&] {
    trainer.step().train(feed, numbers);
    ++numbers.step;
  };
  step();
  trainer.backend().kinds.clear();
  const int repeats = options.number("repeats");
  const bench::Times times = bench::time(repeats, step);
  const double peak = cpu::measured_peak(policy.compute_type(), trainer.backend().workers());
  double all = 0;
  for (const auto& [kind, seen] : trainer.backend().kinds) all += seen.seconds;
  for (const auto& [kind, seen] : trainer.backend().kinds)
    report.row({{"step", name},
                {"median ms", 1e3 * times.median},
                {"share", seen.seconds / all},
                {"ms", 1e3 * seen.seconds / (repeats + 1)},
                {"calls", seen.calls / (repeats + 1)},
                {"of peak", seen.operations / seen.seconds / peak},
                {"call", " " + kind}});
}

}  // namespace

int main(int argc, char** argv) {
  const Options options(argc, argv, {{"only", ""}, {"repeats", "6"}});
  bench::Report report(options);
  const auto measure_shape = [&]<class P>(const std::string& name) {
    measure<P>(name, shapes::sentence, options, report);
  };
  shapes::each(measure_shape);
  if (options.text("only") == "1b3") measure<shapes::FourPairs>("1b3", 36, options, report);
  return 0;
}
