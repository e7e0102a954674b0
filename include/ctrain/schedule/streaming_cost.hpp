/// \file  What a streamed step moves, and how long it takes at stated rates.   floor 4: schedule
#pragma once

#include <ctrain/schedule/cost.hpp>
#include <ctrain/schedule/streaming.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// Bytes of one step on each way. `touched`: of host memory by update and norm.
struct StreamTraffic {
  bytes down = 0, up = 0, touched = 0, read = 0, written = 0;
};

/// What a device, its link, a host and its disk do in a second: measured, or promised by a data
/// sheet. Of 0, nothing takes time.
struct StreamRates {
  double flops = 100e12, device_bytes = 1000e9;
  double down = 25e9, up = 25e9;
  double host_bytes = 50e9;
  double read = 6e9, written = 2e9;
};

/// One step on paper.
struct StreamTime {
  double seconds = 0;
  double busy[stream_lanes]{};  // of each lane

  /// No order of the same jobs is faster.
  constexpr double bound() const {
    double most = 0;
    for (const double lane : busy)
      if (lane > most) most = lane;
    return most;
  }
};

// functions --------------------------------------------------------------------------------------

/// Bytes that a job moves on its lane; 0 for compute.
constexpr bytes bytes_of(const StreamJob& j, const Graph& g, const Policy& p,
                         const StreamUnits& units, const StreamPlan& plan) {
  const StreamUnit& u = units.of(j.unit < 0 ? 0 : j.unit);
  const PieceRecord& record = u.record;
  switch (j.task) {
    case StreamTask::deliver:
      return u.on_device * u.elements_of(j.piece) / u.elements;
    case StreamTask::deliver_rows:
    case StreamTask::collect_rows:
    case StreamTask::norm_rows:
      return plan.word_rows.size;
    case StreamTask::restore:
    case StreamTask::keep:
      return plan.slot;
    case StreamTask::collect:
    case StreamTask::norm:
      return gradient_of_piece(g.parameters, p, u, j.piece).size;
    case StreamTask::update:
      return 24 * u.elements_of(j.piece) + gradient_of_piece(g.parameters, p, u, j.piece).size;
    case StreamTask::read:
      return j.all_states ? record.size() : record.weights;
    case StreamTask::write:
      return record.states();
    case StreamTask::write_gradient:
      return record.gradients;
    case StreamTask::read_kept:
    case StreamTask::write_kept:
      return round_up(plan.slot, PieceRecord::block);
    default:
      return 0;
  }
}

/// Arithmetic and device memory of a compute job.
constexpr Cost cost_of(const StreamJob& j, const Graph& g, const Policy& p) {
  Cost sum;
  const auto add_all = [&](const Program& program) {
    for (const Op& op : program.ops) sum += cost_of(g, op, p);
  };
  switch (j.turn) {
    case StreamTurn::embed:
      add_all(g.forward_embedding);
      return sum;
    case StreamTurn::head:
      add_all(g.forward_head);
      add_all(g.backward_head);
      return sum;
    case StreamTurn::embed_backward:
      add_all(g.backward_embedding);
      return sum;
    default:
      for (int i = j.first; i < j.first + j.ops; ++i)
        sum += cost_of(
            g, j.turn == StreamTurn::forward ? g.forward_block.ops.rows[i] : backward_op(g, p, i),
            p);
      return sum;
  }
}

/// The bytes of a table. Rows of the word table count as many as a batch can have.
template <int Capacity>
constexpr StreamTraffic traffic_of(const StreamTable<Capacity>& table, const Graph& g,
                                   const Policy& p) {
  const StreamUnits units = stream_units(g, p);
  const StreamPlan plan = plan_stream(g, p);
  StreamTraffic t;
  for (const StreamJob& j : table) {
    const bytes size = bytes_of(j, g, p, units, plan);
    if (j.lane == StreamLane::down) t.down += size;
    if (j.lane == StreamLane::up) t.up += size;
    if (j.lane == StreamLane::host) t.touched += size;
    if (j.lane == StreamLane::reads) t.read += size;
    if (j.lane == StreamLane::writes) t.written += size;
  }
  return t;
}

/// When each job of a table ends: after what it waits for and what came before in its lane, since
/// all of those are earlier rows.
template <int Capacity>
StreamTime time_of(const StreamTable<Capacity>& table, const Graph& g, const Policy& p,
                   const StreamRates& rates) {
  const StreamUnits units = stream_units(g, p);
  const StreamPlan plan = plan_stream(g, p);
  const double per_second[stream_lanes] = {0,          rates.down,   rates.up, rates.host_bytes,
                                           rates.read, rates.written};
  const auto over = [](double amount, double rate) { return rate > 0 ? amount / rate : 0; };
  StreamTime time;
  std::vector<double> ends;
  double free[stream_lanes]{};
  for (const StreamJob& j : table) {
    const int lane = int(j.lane);
    double start = free[lane];
    for (const std::int32_t row : j.after)
      if (row >= 0) start = std::max(start, ends[std::size_t(row)]);
    double seconds = over(double(bytes_of(j, g, p, units, plan)), per_second[lane]);
    if (j.task == StreamTask::compute) {
      const Cost c = cost_of(j, g, p);
      seconds = std::max(over(c.flops, rates.flops), over(c.bytes_moved, rates.device_bytes));
    }
    free[lane] = start + seconds;
    time.busy[lane] += seconds;
    ends.push_back(free[lane]);
    time.seconds = std::max(time.seconds, free[lane]);
  }
  return time;
}

}  // namespace ctrain
