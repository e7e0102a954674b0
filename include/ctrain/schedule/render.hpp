/// \file  A schedule as text, as a mermaid chart and as a trace for Perfetto or chrome://tracing.   floor 4: schedule
#pragma once

#include <ctrain/schedule/cost.hpp>
#include <ctrain/schedule/events.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ctrain {

// names ------------------------------------------------------------------------------------------

constexpr std::string_view name_of(EventKind kind) {
  constexpr std::string_view names[] = {"compute", "collective", "send",   "receive",
                                        "wait",    "acquire",    "release"};
  return names[int(kind)];
}
constexpr std::string_view name_of(Work work) {
  constexpr std::string_view names[] = {
      "forward",    "backward", "backward_input", "backward_weight", "clear",
      "accumulate", "norm",     "update",         "compress",        "serve"};
  return names[int(work)];
}
constexpr std::string_view name_of(Collective kind) {
  constexpr std::string_view names[] = {"all_reduce", "reduce_scatter", "all_gather", "all_to_all"};
  return names[int(kind)];
}
constexpr std::string_view name_of(Group group) {
  constexpr std::string_view names[] = {"data", "tensor", "model", "world"};
  return names[int(group)];
}
constexpr std::string_view name_of(Store store) {
  constexpr std::string_view names[] = {
      "nothing",    "parameters",  "parameter_shard", "gradients",   "gradient_shard",
      "norms",      "gathered",    "reducing",        "activations", "stream_in",
      "stream_out", "d_stream_in", "d_stream_out",    "signs",       "means"};
  return names[int(store)];
}

// text -------------------------------------------------------------------------------------------

namespace schedule_text {

inline std::string place(Place p) {
  return std::string(name_of(p.store)) + "[" + std::to_string(p.index) + "]";
}
inline std::string range(const char* what, const Event& e) {
  std::string text = std::string(" ") + what + " " + std::to_string(e.first);
  if (e.count > 1) text += ".." + std::to_string(e.first + e.count - 1);
  return text;
}
inline std::string spaces(const std::string& text, std::size_t width) {
  return text + std::string(text.size() < width ? width - text.size() : 0, ' ');
}
inline std::string micros(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", seconds * 1e6);
  return text;
}
inline std::string lane_name(int lane) {
  constexpr const char* names[] = {"compute", "data group", "tensor group", "model group",  "world",
                                   "to next", "from next",  "to previous",  "from previous"};
  return names[lane];
}

}  // namespace schedule_text

/// One event in a few words, which are also its name in charts and traces.
inline std::string render(const Event& e, int iteration = 0) {
  using namespace schedule_text;
  const std::string micro = " micro " + std::to_string(e.micro + iteration);
  switch (e.kind) {
    case EventKind::compute:
      return std::string(name_of(e.work)) +
             (e.work >= Work::clear ? range("bucket", e) : range("unit", e) + micro);
    case EventKind::collective:
      return std::string(name_of(e.collective)) + " " + std::string(name_of(e.group)) +
             (e.to.store == Store::norms ? " norms" : range("bucket", e));
    case EventKind::send:
      return "send to stage " + std::to_string(e.peer) + micro;
    case EventKind::receive:
      return "receive from stage " + std::to_string(e.peer) + micro;
    case EventKind::wait:
      return "wait for " + std::to_string(e.awaited);
    default:
      return std::string(name_of(e.kind)) + " " + place(e.to);
  }
}

/// The table of one stage, an event a line: index, what, from where to where, payload in bytes.
template <int Capacity> std::string render(const StageTable<Capacity>& table) {
  using namespace schedule_text;
  std::string text;
  for (const Section& section : table.sections) {
    if (section.repeats > 1) text += "repeat " + std::to_string(section.repeats) + " times\n";
    for (int i = section.first; i < section.first + section.size; ++i) {
      const Event& e = table.events[i];
      std::string line = spaces(std::to_string(i), 5) + spaces(render(e), 44);
      if (e.kind == EventKind::compute || e.starts_transfer()) {
        if (e.from.store != Store::nothing) line += place(e.from);
        if (e.to.store != Store::nothing && !(e.to == e.from)) line += " -> " + place(e.to);
        if (e.slot >= 0) line += " in " + place({Store::activations, e.slot});
        if (e.size > 0) line += ", " + std::to_string(e.size) + " bytes";
      }
      text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    }
    if (section.repeats > 1) text += "end repeat\n";
  }
  return text;
}

/// Every stage's table and the fingerprint that ranks compare.
template <int Stages, int Capacity> std::string render(const Schedule<Stages, Capacity>& s) {
  std::string text;
  const Grid& g = s.split.grid;
  for (int stage = 0; stage < Stages; ++stage) {
    const int first = g.rank({0, 0, stage}), last = g.rank({g.data - 1, g.tensor - 1, stage});
    text += "ranks " + std::to_string(first) + " to " + std::to_string(last) + "\n" +
            render(s.tables[stage]) + "\n";
  }
  char hash[32];
  std::snprintf(hash, sizeof hash, "%016llx", static_cast<unsigned long long>(hash_of(s)));
  return text + "hash " + hash + "\n";
}

// modelled times ---------------------------------------------------------------------------------

/// A mermaid gantt chart of the modelled run, one section a stage and lane, in microseconds.
template <int Stages, int Capacity>
std::string render_mermaid(const Schedule<Stages, Capacity>& s, const Timeline& timeline) {
  using namespace schedule_text;
  std::string text = "gantt\n  dateFormat x\n  axisFormat %L\n";
  for (int stage = 0; stage < Stages; ++stage)
    for (int lane = 0; lane < Timeline::lanes; ++lane) {
      std::string tasks;
      for (const Span& span : timeline.spans()) {
        if (span.stage != stage || span.lane != lane) continue;
        const Event& e = s.tables[stage].events[span.index];
        tasks += "  " + render(e, span.micro - e.micro) + " :" +
                 std::to_string((long long)(span.begin * 1e6)) + ", " +
                 std::to_string((long long)(span.end * 1e6)) + "\n";
      }
      if (!tasks.empty())
        text += "  section stage " + std::to_string(stage) + " " + lane_name(lane) + "\n" + tasks;
    }
  return text;
}

/// A run in the trace format of Chrome: a process for each rank, a thread for each lane, complete
/// events in microseconds from the first one on, with the event's index in the rank's table.
/// `of_rank` has the spans of each rank.
template <int Stages, int Capacity>
std::string render_trace(const Schedule<Stages, Capacity>& s,
                         const std::vector<std::vector<Span>>& of_rank) {
  using namespace schedule_text;
  double first = 0;
  bool any = false;
  for (const std::vector<Span>& spans : of_rank)
    for (const Span& span : spans)
      first = std::exchange(any, true) ? std::min(first, span.begin) : span.begin;
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  const char* comma = "\n";
  for (int rank = 0; rank < int(of_rank.size()); ++rank) {
    const std::string pid = "\"pid\":" + std::to_string(rank) + ",\"tid\":";
    for (int lane = 0; lane < Timeline::lanes; ++lane) {
      text += comma + ("{\"ph\":\"M\",\"name\":\"thread_name\"," + pid + std::to_string(lane)) +
              ",\"args\":{\"name\":\"" + lane_name(lane) + "\"}}";
      comma = ",\n";
    }
    for (const Span& span : of_rank[std::size_t(rank)]) {
      const Event& e = s.tables[span.stage].events[span.index];
      text += comma + ("{\"ph\":\"X\",\"name\":\"" + render(e, span.micro - e.micro)) + "\"," +
              pid + std::to_string(span.lane) + ",\"ts\":" + micros(span.begin - first) +
              ",\"dur\":" + micros(span.end - span.begin) +
              ",\"args\":{\"index\":" + std::to_string(span.index) +
              ",\"bytes\":" + std::to_string(e.size) + "}}";
    }
  }
  return text + "\n]}\n";
}

/// The modelled run in the same format.
template <int Stages, int Capacity>
std::string render_trace(const Schedule<Stages, Capacity>& s, const Timeline& timeline) {
  std::vector<std::vector<Span>> of_rank(std::size_t(s.split.grid.ranks()));
  for (int rank = 0; rank < s.split.grid.ranks(); ++rank)
    for (const Span& span : timeline.spans())
      if (span.stage == s.split.grid.at(rank).pipeline) of_rank[std::size_t(rank)].push_back(span);
  return render_trace(s, of_rank);
}

}  // namespace ctrain
