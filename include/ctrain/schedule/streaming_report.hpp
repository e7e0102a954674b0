/// \file  What each way of offloading needs, moves and takes, as a table.   floor 4: schedule
#pragma once

#include <ctrain/memory/report.hpp>
#include <ctrain/schedule/streaming_cost.hpp>

#include <cstdio>
#include <memory>
#include <string>

namespace ctrain {

/// More rows than a table of at most 64 blocks has with pieces of 32 MiB.
inline constexpr int most_reported_jobs = 16384;
inline constexpr int stream_name_width = 50;

/// One line: bytes on device, host and disk, bytes moved in a step, and the modelled seconds of a
/// step with the lane that bounds it.
inline std::string render_stream(const std::string& name, const Policy& p,
                                 const StreamRates& rates) {
  using report::left, report::right;
  constexpr const char* lanes[] = {"compute", "link down", "link up", "host", "reads", "writes"};
  using Rows = StreamTable<most_reported_jobs>;
  const Graph g = derive_graph(p);
  const StreamUnits units = stream_units(g, p);
  const StreamPlan plan = plan_stream(g, p);
  const auto table = std::make_unique<Rows>();
  const auto writer = std::make_unique<StreamWriter<most_reported_jobs, Rows>>(
      g, p, units, plan, StreamPass::train, table.get());
  writer->write();
  const StreamTraffic t = traffic_of(*table, g, p);
  const StreamTime time = time_of(*table, g, p, rates);
  int slowest = 0;
  for (int lane = 1; lane < stream_lanes; ++lane)
    if (time.busy[lane] > time.busy[slowest]) slowest = lane;
  char seconds[64];
  std::snprintf(seconds, sizeof seconds, "%9.2f %9.2f  ", time.seconds, time.bound());
  std::string line = left(name, stream_name_width);
  for (const bytes size :
       {plan.device(), plan.host(), plan.disk(), t.down, t.up, t.read, t.written})
    line += right(in_GiB(size), 8);
  return line + seconds + lanes[slowest] + "\n";
}

inline std::string stream_header(const std::string& name) {
  using report::left, report::right;
  std::string line = left(name, stream_name_width);
  for (const char* column : {"device", "host", "disk", "down", "up", "read", "written"})
    line += right(column, 8);
  return line + right("seconds", 9) + right("bound", 10) + "  by\n";
}

}  // namespace ctrain
