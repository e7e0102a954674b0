/// \file  What a schedule costs: arithmetic, bytes, and the seconds of every event for stated rates.   floor 4: schedule
#pragma once

#include <ctrain/model/graph.hpp>
#include <ctrain/policy/policy.hpp>
#include <ctrain/schedule/collectives.hpp>
#include <ctrain/schedule/events.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// What a rank and its links do: measured, or promised by a data sheet. `link` is what one rank can
/// send to all others together.
struct Rates {
  double flops_per_second = 100e12;
  double memory_bytes_per_second = 1000e9;
  double link_bytes_per_second = 25e9;
  double seconds_per_message = 10e-6;
};

/// Arithmetic of a rank, the memory it touches for that, and what it exchanges on the way.
struct Cost {
  double flops = 0, bytes_moved = 0;
  double bytes_sent = 0, messages = 0;

  /// Arithmetic and memory traffic overlap; exchanges within a program do not.
  constexpr double seconds(const Rates& r) const {
    const double arithmetic = flops / r.flops_per_second,
                 traffic = bytes_moved / r.memory_bytes_per_second;
    return (arithmetic > traffic ? arithmetic : traffic) + bytes_sent / r.link_bytes_per_second +
           messages * r.seconds_per_message;
  }
  constexpr Cost& operator+=(const Cost& c) {
    flops += c.flops;
    bytes_moved += c.bytes_moved;
    bytes_sent += c.bytes_sent;
    messages += c.messages;
    return *this;
  }
};

/// One unit of a model, for one micro-batch on one rank. Backward is both of its parts.
struct UnitCost {
  Cost forward, backward_input, backward_weight;
};
struct UnitCosts {
  UnitCost embedding, block, head;
  constexpr const UnitCost& of(int unit, int layers) const {
    return unit == 0 ? embedding : unit > layers ? head : block;
  }
};

// functions --------------------------------------------------------------------------------------

/// Messages that a member sends in a lowered collective.
constexpr int messages_sent(Collective kind, int members) {
  if (kind == Collective::all_to_all) return members - 1;
  int rounds = 0;
  if (is_power_of_two(members))
    while ((1 << rounds) < members) ++rounds;
  else
    rounds = members - 1;
  return kind == Collective::all_reduce ? 2 * rounds : rounds;
}
constexpr Cost cost_of(Collective kind, int members, bytes payload) {
  return {.bytes_sent = double(bytes_sent(kind, members, payload)),
          .messages = double(messages_sent(kind, members))};
}

/// Elements of a tensor that all tensor ranks have together, or each of them, at the policy's
/// bounds. A workspace has none.
constexpr double elements_of(const Tensor& t, const Policy& p) {
  const double rows = t.rows == Rows::tokens      ? p.batch.rows()
                      : t.rows == Rows::sentences ? p.batch.sentence_bound()
                                                  : 0;
  return rows * t.cols / (t.spread == Spread::rows ? p.parallel.tensor : 1);
}

/// Bytes that travel whole through an exchange of tensor ranks: the larger of what it takes and
/// makes.
constexpr bytes payload_of(const Graph& g, const Op& op, const Policy& p) {
  const Tensor& t =
      g.tensors.rows[(op.kind == OpKind::all_gather ? op.outputs : op.inputs)->tensor];
  return bytes(elements_of(t, p)) * size_of(t.type);
}

/// The collective that an op is; ops that are none have no business here.
constexpr Collective collective_of(OpKind kind) {
  return kind == OpKind::all_reduce   ? Collective::all_reduce
         : kind == OpKind::all_gather ? Collective::all_gather
                                      : Collective::reduce_scatter;
}
/// One op on one rank. Every row attends `batch.length` keys, which is exact for padded batches and
/// a bound for packed ones. Embedding, norms and the like cost the bytes they touch, exchanges the
/// bytes they send.
constexpr Cost cost_of(const Graph& g, const Op& op, const Policy& p) {
  if (is_exchange(op.kind))
    return cost_of(collective_of(op.kind), p.parallel.tensor, payload_of(g, op, p));
  const auto elements = [&](Operand x) {
    return x.tensor == no_tensor ? 0.0 : elements_of(g.tensors.rows[x.tensor], p);
  };
  Cost c;
  for (const Operand& x : op.inputs)
    if (x.tensor != no_tensor)
      c.bytes_moved += elements(x) * size_of(g.tensors.rows[x.tensor].type);
  for (const Operand& y : op.outputs)
    if (y.tensor != no_tensor)
      c.bytes_moved += elements(y) * size_of(g.tensors.rows[y.tensor].type);
  switch (op.kind) {
    case OpKind::linear:
    case OpKind::linear_backward_input:
    case OpKind::linear_backward_weight: {
      const double through = op.kind == OpKind::linear ? elements(op.inputs[0]) / op.in
                                                       : elements(op.inputs[0]) / op.out;
      c.flops = 2.0 * through * op.in * op.out;
      c.bytes_moved += 4.0 * op.in * op.out;
      return c;
    }
    case OpKind::attention:  // two products a head; backward makes one again and has four
      c.flops = 4.0 * elements(op.outputs[0]) * p.batch.length;
      return c;
    case OpKind::attention_backward:
      c.flops = 10.0 * elements(op.inputs[0]) * p.batch.length;
      return c;
    default:
      return c;
  }
}

/// Forward, and backward with its gradients of weights apart.
constexpr UnitCost cost_of_unit(const Graph& g, const Program& forward, const Program& backward,
                                const Policy& p) {
  UnitCost cost;
  for (const Op& op : forward.ops) cost.forward += cost_of(g, op, p);
  for (const Op& op : backward.ops)
    (op.kind == OpKind::linear_backward_weight ? cost.backward_weight : cost.backward_input) +=
        cost_of(g, op, p);
  if (p.recompute == Recompute::full && forward.segment == Segment::block)
    for (const Op& op : g.recompute_block.ops) cost.backward_input += cost_of(g, op, p);
  return cost;
}

constexpr UnitCosts unit_costs(const Graph& g, const Policy& p) {
  return {cost_of_unit(g, g.forward_embedding, g.backward_embedding, p),
          cost_of_unit(g, g.forward_block, g.backward_block, p),
          cost_of_unit(g, g.forward_head, g.backward_head, p)};
}

/// One compute event. Update touches weight, gradient and both moments; accumulate two
/// shards; compress gradient, momentum and errors twice; serve a shard of errors twice.
constexpr Cost cost_of(const Event& e, const Split& split, const StageLayout& layout,
                       const UnitCosts& units) {
  Cost sum;
  if (e.work >= Work::clear) {
    const int n = split.grid.data;
    for (int b = e.first; b < e.first + e.count; ++b) {
      const double all = double(layout.buckets.rows[b].elements), shard = all / n;
      const double own = split.zero.stage >= 1 ? shard : all;
      if (e.work == Work::clear)
        sum.bytes_moved += 4 * (e.to.store == Store::gradient_shard ? shard : all);
      if (e.work == Work::accumulate) sum.bytes_moved += 12 * shard;
      if (e.work == Work::norm) sum.bytes_moved += 4 * own;
      if (e.work == Work::update) sum.bytes_moved += 28 * own;
      if (e.work == Work::compress) sum.bytes_moved += 24 * all;
      if (e.work == Work::serve) sum.bytes_moved += 16 * shard;
    }
    return sum;
  }
  for (int unit = e.first; unit < e.first + e.count; ++unit) {
    const UnitCost& u = units.of(unit, split.layers);
    if (e.work == Work::forward) sum += u.forward;
    if (e.work == Work::backward || e.work == Work::backward_input) sum += u.backward_input;
    if (e.work == Work::backward || e.work == Work::backward_weight) sum += u.backward_weight;
  }
  return sum;
}

// the modelled run -------------------------------------------------------------------------------

/// When an event of a stage's table happens, or happened. Lane 0 is the rank's own work; the others
/// are those of transfers, one per group and one per direction to each neighbour.
struct Span {
  int stage = 0, index = 0, lane = 0, micro = 0;
  double begin = 0, end = 0;  // seconds
};
constexpr int lane_of(const Event& e, int stage) {
  if (e.kind == EventKind::compute) return 0;
  if (e.kind == EventKind::collective) return 1 + int(e.group);
  const int first = e.peer > stage ? 5 : 7;
  return e.kind == EventKind::send ? first : first + 1;
}

/// Runs a schedule on paper. One rank of each stage stands for all, as in the proof. A compute
/// event takes its cost; a transfer begins when its last member has come and the one before it in
/// its lane has ended; a wait takes until then.
class Timeline {
 public:
  static constexpr int lanes = 9;  // 0: compute; 1 + group; 5, 6: to and from next; 7, 8: previous

  template <int Stages, int Capacity>
  Timeline(const Schedule<Stages, Capacity>& s, const UnitCosts& units, const Rates& rates)
      : split_(s.split), rates_(rates), stages_(Stages) {
    for (int stage = 0; stage < Stages; ++stage) {
      Stage& r = stages_[std::size_t(stage)];
      r.ends.assign(std::size_t(s.tables[stage].events.size), -1);
      for (const Section& section : s.tables[stage].sections) r.sections.push_back(section);
      for (const Event& e : s.tables[stage].events) {
        r.events.push_back(e);
        r.costs.push_back(e.kind == EventKind::compute
                              ? cost_of(e, s.split, s.layouts[stage], units).seconds(rates)
                              : 0);
      }
    }
    for (bool moved = true; moved;) {
      moved = false;
      for (int stage = 0; stage < Stages; ++stage) moved = advance(stage) || moved;
    }
  }

  const std::vector<Span>& spans() const { return spans_; }
  /// Seconds of one optimizer step.
  double seconds() const {
    double last = 0;
    for (const Stage& s : stages_)
      if (s.clock > last) last = s.clock;
    return last;
  }
  /// Share of the step in which a stage computes nothing.
  double idle_share(int stage) const {
    double busy = 0;
    for (const Span& s : spans_)
      if (s.stage == stage && s.lane == 0) busy += s.end - s.begin;
    return 1 - busy / seconds();
  }

 private:
  struct Posted {
    int index = 0, micro = 0;
    double time = 0;
  };
  struct Stage {
    std::vector<Event> events;
    std::vector<Section> sections;
    std::vector<double> costs, ends;  // of each event
    std::vector<Posted> posted[lanes];
    std::size_t done[lanes]{};
    double free[lanes]{};
    std::size_t section = 0;
    int iteration = 0, position = 0;
    double clock = 0;
  };

  const Posted* front(int stage, int lane) const {
    const Stage& s = stages_[std::size_t(stage)];
    return s.done[lane] < s.posted[lane].size() ? &s.posted[lane][s.done[lane]] : nullptr;
  }
  /// The stages and lanes that take part in what is at the head of this lane.
  std::vector<std::pair<int, int>> members(int stage, int lane) const {
    if (lane == 1 + int(Group::model) || lane == 1 + int(Group::world)) {
      std::vector<std::pair<int, int>> all;
      for (int i = 0; i < split_.grid.pipeline; ++i) all.emplace_back(i, lane);
      return all;
    }
    constexpr int opposite[lanes] = {0, 1, 2, 3, 4, 8, 7, 6, 5};
    if (lane < 5) return {{stage, lane}};
    return {{stage, lane}, {lane < 7 ? stage + 1 : stage - 1, opposite[lane]}};
  }

  void end_transfers(int stage, int lane) {
    for (;;) {
      double begin = 0;
      const auto all = members(stage, lane);
      for (const auto& [other, other_lane] : all) {
        const Posted* p = front(other, other_lane);
        if (p == nullptr) return;
        const double ready = std::max(p->time, stages_[std::size_t(other)].free[other_lane]);
        begin = std::max(begin, ready);
      }
      for (const auto& [other, other_lane] : all) {
        Stage& s = stages_[std::size_t(other)];
        const Posted p = *front(other, other_lane);
        const Event& e = s.events[std::size_t(p.index)];
        const Cost cost = e.kind == EventKind::collective
                              ? cost_of(e.collective, split_.grid.size(e.group), e.size)
                              : Cost{.bytes_sent = double(e.size), .messages = 1};
        const double end = begin + cost.seconds(rates_);
        spans_.push_back({other, p.index, other_lane, p.micro, begin, end});
        s.ends[std::size_t(p.index)] = s.free[other_lane] = end;
        ++s.done[other_lane];
      }
    }
  }

  /// Walks a stage's table as far as it can; false if it could not move.
  bool advance(int stage) {
    Stage& s = stages_[std::size_t(stage)];
    bool moved = false;
    while (s.section < s.sections.size()) {
      const Event& e = s.events[std::size_t(s.position)];
      const int micro = e.micro + s.iteration;
      if (e.kind == EventKind::wait) {
        const double end = s.ends[std::size_t(e.awaited)];
        if (end < 0) return moved;
        s.clock = std::max(s.clock, end);
      } else if (e.kind == EventKind::compute) {
        const double end = s.clock + s.costs[std::size_t(s.position)];
        spans_.push_back({stage, s.position, 0, micro, s.clock, end});
        s.clock = end;
      } else if (e.starts_transfer()) {
        const int lane = lane_of(e, stage);
        s.ends[std::size_t(s.position)] = -1;
        s.posted[lane].push_back({s.position, micro, s.clock});
        end_transfers(stage, lane);
      }
      moved = true;
      const Section& section = s.sections[s.section];
      if (++s.position < section.first + section.size) continue;
      if (++s.iteration == section.repeats) s.iteration = 0, ++s.section;
      if (s.section < s.sections.size()) s.position = s.sections[s.section].first;
    }
    return moved;
  }

  Split split_;
  Rates rates_;
  std::vector<Stage> stages_;
  std::vector<Span> spans_;
};

}  // namespace ctrain
