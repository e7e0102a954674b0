// Runs the tables of all ranks with numbers, unbuffered messages and a random order of everything
// that can happen next. It knows nothing of the proofs: a schedule is wrong if a run hangs, if two
// ends of a message disagree, or if a parameter is not what one rank alone would have made of it.
#pragma once

#include <ctrain/schedule/build.hpp>
#include <ctrain/schedule/collectives.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace simulator {

using ctrain::Collective;
using ctrain::Coordinates;
using ctrain::Event;
using ctrain::EventKind;
using ctrain::Exchange;
using ctrain::Exchanges;
using ctrain::Grid;
using ctrain::Group;
using ctrain::Place;
using ctrain::Section;
using ctrain::Split;
using ctrain::StageLayout;
using ctrain::Store;
using ctrain::Work;

/// Sums of these do not depend on their order, so a run has one right result.
using Value = std::uint64_t;

constexpr Value mix(Value a, Value b) {
  Value x = a * 0x9e3779b97f4a7c15u + b + 0x2545f4914f6cdd1du;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9u;
  return x ^ (x >> 32);
}

/// A small, quick generator (xorshift64*).
struct Random {
  std::uint64_t state;
  explicit Random(std::uint64_t seed) : state(mix(seed, 1) | 1) {}
  std::uint64_t next() {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1du;
  }
  int below(int n) { return int((next() >> 33) % std::uint64_t(n)); }
};

// the model --------------------------------------------------------------------------------------
// Parameters of a unit are chunks of its bucket. Tensor ranks have different parameters and add up
// what they make of the same input.

inline Value first_parameter(int stage, int tensor, int bucket, int chunk) {
  return mix(mix(std::uint64_t(stage), std::uint64_t(tensor)),
             mix(std::uint64_t(bucket), std::uint64_t(chunk)));
}
inline Value input(int step, int data, int micro) {
  return mix(mix(std::uint64_t(step), 7), mix(std::uint64_t(data), std::uint64_t(micro)));
}
inline Value label(int step, int data, int micro) {
  return mix(input(step, data, micro), 11);
}
inline Value unit_of(const Value* chunks, int n, int unit) {
  Value sum = 0;
  for (int c = 0; c < n; ++c) sum += mix(chunks[c], std::uint64_t(unit));
  return sum;
}
inline Value gradient(Value x, Value dy, int unit, int chunk, int tensor) {
  return mix(mix(x, dy), mix(std::uint64_t(unit), std::uint64_t(chunk * 64 + tensor)));
}
inline Value updated(Value parameter, Value gradient, Value norm) {
  return parameter * 5 + gradient + norm;
}

// tables that can be changed ---------------------------------------------------------------------

struct RankTable {
  StageLayout layout;
  std::vector<Event> events;
  std::vector<Section> sections;
};
struct Tables {
  Split split;
  std::vector<RankTable> ranks;

  /// Values of one data rank's shard of a bucket: one of the tensor rank's own and, where the
  /// norms' gradients are summands, one for each tensor rank's share of their sum, which all have.
  int shard() const { return 1 + (split.sequence ? split.grid.tensor : 0); }
  int values() const { return split.grid.data * shard(); }
  /// The tensor rank whose parameter value i is; -1: that of all.
  int owner(int tensor, int i) const { return i % shard() == 0 ? tensor : -1; }
  /// Only blocks have norms over rows.
  bool contributes(int unit, int i) const {
    return i % shard() == 0 || (unit > 0 && unit <= split.layers);
  }
};

template <int Stages, int Capacity> Tables tables_of(const ctrain::Schedule<Stages, Capacity>& s) {
  Tables all{s.split, {}};
  for (int rank = 0; rank < s.split.grid.ranks(); ++rank) {
    const int stage = s.split.grid.at(rank).pipeline;
    const auto& table = s.tables[stage];
    all.ranks.push_back({s.layouts[stage],
                         {table.events.begin(), table.events.end()},
                         {table.sections.begin(), table.sections.end()}});
  }
  return all;
}

/// Parameters of every rank, bucket and chunk.
using Parameters = std::vector<std::vector<std::vector<Value>>>;

/// What one rank after the other, in plain loops, makes of `steps` steps.
inline Parameters reference(const Tables& t, int steps) {
  const Grid grid = t.split.grid;
  const int n = t.values();
  const auto rank_of = [&](int stage, int tensor) { return grid.rank({0, tensor, stage}); };
  Parameters p(t.ranks.size());
  for (int stage = 0; stage < grid.pipeline; ++stage)
    for (int tensor = 0; tensor < grid.tensor; ++tensor) {
      const int rank = rank_of(stage, tensor),
                buckets = t.ranks[std::size_t(rank)].layout.buckets.size;
      p[std::size_t(rank)].assign(std::size_t(buckets), std::vector<Value>(std::size_t(n)));
      for (int b = 0; b < buckets; ++b)
        for (int c = 0; c < n; ++c)
          p[std::size_t(rank)][std::size_t(b)][std::size_t(c)] =
              first_parameter(stage, t.owner(tensor, c), b, c);
    }
  for (int step = 0; step < steps; ++step) {
    Parameters g = p;
    for (auto& rank : g)
      for (auto& bucket : rank)
        for (Value& v : bucket) v = 0;
    for (int data = 0; data < grid.data; ++data)
      for (int micro = 0; micro < t.split.micro_batches; ++micro) {
        Value x = input(step, data, micro);
        std::vector<Value> saved;
        const auto sum_over_tensor_ranks = [&](int stage, int unit, Value v, Value salt) {
          Value sum = 0;
          for (int tensor = 0; tensor < grid.tensor; ++tensor) {
            const int rank = rank_of(stage, tensor);
            const int b = t.ranks[std::size_t(rank)].layout.bucket_of(unit);
            sum += mix(unit_of(p[std::size_t(rank)][std::size_t(b)].data(), n, unit) + salt, v);
          }
          return mix(v, sum);
        };
        for (int stage = 0; stage < grid.pipeline; ++stage) {
          const StageLayout& layout = t.ranks[std::size_t(rank_of(stage, 0))].layout;
          for (int u = layout.first; u < layout.first + layout.units; ++u) {
            saved.push_back(x);
            x = sum_over_tensor_ranks(stage, u, x, 0);
          }
        }
        Value dy = mix(x, label(step, data, micro));
        for (int stage = grid.pipeline - 1; stage >= 0; --stage) {
          const StageLayout& layout = t.ranks[std::size_t(rank_of(stage, 0))].layout;
          for (int u = layout.first + layout.units - 1; u >= layout.first; --u) {
            const int b = layout.bucket_of(u);
            for (int tensor = 0; tensor < grid.tensor; ++tensor)
              for (int c = 0; c < n; ++c)
                for (int from = 0; from < grid.tensor; ++from)
                  if (t.contributes(u, c) && (from == tensor || t.owner(tensor, c) < 0))
                    g[std::size_t(rank_of(stage, tensor))][std::size_t(b)][std::size_t(c)] +=
                        gradient(saved[std::size_t(u)], dy, u, c, from);
            dy = sum_over_tensor_ranks(stage, u, dy, 1);
          }
        }
      }
    Value norm = 0;
    for (const auto& rank : g)
      for (const auto& bucket : rank)
        for (const Value v : bucket) norm += 3 * v;
    for (std::size_t r = 0; r < p.size(); ++r)
      for (std::size_t b = 0; b < p[r].size(); ++b)
        for (std::size_t c = 0; c < p[r][b].size(); ++c)
          p[r][b][c] = updated(p[r][b][c], g[r][b][c], norm);
  }
  for (int rank = 0; rank < grid.ranks(); ++rank) {
    const Coordinates c = grid.at(rank);
    p[std::size_t(rank)] = p[std::size_t(rank_of(c.pipeline, c.tensor))];
  }
  return p;
}

// the run ----------------------------------------------------------------------------------------

enum class Outcome { right, hangs, ends_disagree, wrong_values, not_a_schedule };

class Simulator {
 public:
  static constexpr int steps = 2;  // a transfer that outlives its step harms the next one

  /// `original` has the tables that the expected values come from.
  Simulator(const Tables& original, const Tables& tables)
      : tables_(tables), grid_(tables.split.grid), expected_(reference(original, steps)) {
    for (int rank = 0; rank < grid_.ranks(); ++rank) layouts_.push_back(make_layout(rank));
    for (int kind = 0; kind < 3; ++kind)
      for (int group = 0; group < 4; ++group) {
        const int n = grid_.size(Group(group));
        for (int me = 0; me < n; ++me)
          lists_[kind][group].push_back(ctrain::lowered(Collective(kind), n, me));
      }
    const int parts = 1 + lanes;
    for (int part = 0; part < grid_.ranks() * parts; ++part) order_.push_back(part);
  }

  Outcome run(std::uint64_t seed) {
    start();
    Random random(seed);
    const int parts = int(order_.size());
    for (int i = parts - 1; i > 0; --i)
      std::swap(order_[std::size_t(i)], order_[std::size_t(random.below(i + 1))]);
    const bool by_priority = random.below(2) == 0;
    int failures = 0;
    while (outcome_ == Outcome::right) {
      if (by_priority) {
        int i = 0;
        while (i < parts && !step(order_[std::size_t(i)])) ++i;
        if (i == parts) break;
        if (random.below(16) == 0)
          std::swap(order_[std::size_t(random.below(parts))],
                    order_[std::size_t(random.below(parts))]);
      } else if (step(random.below(parts))) {
        failures = 0;
      } else if (++failures > 4 * parts) {
        int i = 0;
        while (i < parts && !step(i)) ++i;
        if (i == parts) break;
        failures = 0;
      }
    }
    if (outcome_ != Outcome::right) return outcome_;
    for (const Rank& r : ranks_) {
      if (!r.at_end) return Outcome::hangs;
      for (const Lane& lane : r.lanes)
        if (lane.head < lane.queue.size()) return Outcome::hangs;
    }
    return Outcome::right;
  }

  /// Micro-actions of all runs so far.
  std::uint64_t actions() const { return actions_; }

 private:
  enum LaneName : int { send_stream = 4, send_d_stream, receive_stream, receive_d_stream, lanes };

  struct Layout {
    std::vector<int> offsets[ctrain::store_kinds];
    int chunks[ctrain::store_kinds]{};
    int size = 0;
  };
  struct Transfer {
    Event event;
    int index = 0;
    bool begun = false, sent = false, received = false;
    int step = 0;
  };
  struct Lane {
    std::vector<Transfer> queue;
    std::size_t head = 0;
  };
  struct Write {
    Value* to;
    Value value;
  };
  struct Rank {
    std::vector<Value> memory;
    std::vector<std::uint8_t> in_flight;  // per event
    Lane lanes[Simulator::lanes];
    std::vector<Write> writes;  // of a compute event that has read but not yet written
    bool computing = false, at_end = false, arrived = false;
    int step = 0, section = 0, iteration = 0, position = 0;
  };

  Layout make_layout(int rank) const {
    const RankTable& t = tables_.ranks[std::size_t(rank)];
    const Split& s = tables_.split;
    const int b = t.layout.buckets.size, n = tables_.values(), slots = s.slots(t.layout.stage);
    Layout l;
    const auto add = [&](Store store, int count, int chunks) {
      l.chunks[int(store)] = chunks;
      for (int i = 0; i < count; ++i) {
        l.offsets[int(store)].push_back(l.size);
        l.size += chunks;
      }
    };
    add(Store::parameters, s.zero.stage < 3 ? b : 0, n);
    add(Store::parameter_shard, s.zero.stage == 3 ? b : 0, tables_.shard());
    add(Store::gradients, s.zero.stage < 2 ? b : 0, n);
    add(Store::gradient_shard, s.zero.stage >= 2 ? b : 0, tables_.shard());
    add(Store::norms, 1, grid_.ranks());
    add(Store::gathered, s.gather_buffers(), n);
    add(Store::reducing, Split::reduce_buffers, n);
    add(Store::activations, slots, 2 + 2 * t.layout.units);
    add(Store::stream_in, slots, 1);
    add(Store::stream_out, slots, 1);
    add(Store::d_stream_in, Split::d_stream_buffers, 1);
    add(Store::d_stream_out, Split::d_stream_buffers, 1);
    return l;
  }

  void start() {
    outcome_ = Outcome::right;
    ranks_.resize(std::size_t(grid_.ranks()));
    for (int rank = 0; rank < grid_.ranks(); ++rank) {
      Rank& r = ranks_[std::size_t(rank)];
      const RankTable& t = table(rank);
      const Coordinates c = grid_.at(rank);
      r.memory.assign(std::size_t(layouts_[std::size_t(rank)].size), 0xbad);
      r.in_flight.assign(t.events.size(), 0);
      for (Lane& lane : r.lanes) lane.queue.clear(), lane.head = 0;
      r.writes.clear();
      r.computing = r.arrived = false;
      r.step = r.section = r.iteration = r.position = 0;
      r.at_end = t.sections.empty();
      for (int b = 0; b < t.layout.buckets.size; ++b)
        for (int k = 0; k < tables_.values(); ++k) {
          const Value v = first_parameter(c.pipeline, tables_.owner(c.tensor, k), b, k);
          if (tables_.split.zero.stage < 3)
            at(rank, {Store::parameters, std::int16_t(b)})[k] = v;
          else if (k / tables_.shard() == c.data)
            at(rank, {Store::parameter_shard, std::int16_t(b)})[k % tables_.shard()] = v;
        }
    }
  }

  const RankTable& table(int rank) const { return tables_.ranks[std::size_t(rank)]; }

  bool exists(int rank, Place p) const {
    return int(p.store) > 0 && int(p.store) < ctrain::store_kinds && p.index >= 0 &&
           std::size_t(p.index) < layouts_[std::size_t(rank)].offsets[int(p.store)].size();
  }
  Value* at(int rank, Place p) {
    return ranks_[std::size_t(rank)].memory.data() +
           layouts_[std::size_t(rank)].offsets[int(p.store)][std::size_t(p.index)];
  }
  int chunks(int rank, Place p) const { return layouts_[std::size_t(rank)].chunks[int(p.store)]; }
  bool malformed() {
    outcome_ = Outcome::not_a_schedule;
    return false;
  }

  bool step(int part) {
    const int rank = part / (1 + lanes), lane = part % (1 + lanes) - 1;
    const bool moved = lane < 0 ? step_program(rank) : step_lane(rank, lane);
    actions_ += moved;
    return moved;
  }

  // programs -------------------------------------------------------------------------------------

  bool step_program(int rank) {
    Rank& r = ranks_[std::size_t(rank)];
    if (r.at_end) return false;
    if (r.computing) {
      for (const Write& w : r.writes) *w.to = w.value;
      r.writes.clear();
      r.computing = false;
      return next(rank);
    }
    const RankTable& t = table(rank);
    Event e = t.events[std::size_t(r.position)];
    e.micro += r.iteration;
    switch (e.kind) {
      case EventKind::compute:
        return begin_compute(rank, e);
      case EventKind::wait:
        if (e.awaited < 0 || std::size_t(e.awaited) >= t.events.size()) return malformed();
        return r.in_flight[std::size_t(e.awaited)] ? false : next(rank);
      case EventKind::acquire:
      case EventKind::release:  // before the one and after the other, a buffer is anyone's
        if (!exists(rank, e.to)) return malformed();
        for (int i = 0; i < chunks(rank, e.to); ++i) at(rank, e.to)[i] = 0xdead;
        return next(rank);
      default:
        return start_transfer(rank, e);
    }
  }

  bool next(int rank) {
    Rank& r = ranks_[std::size_t(rank)];
    const RankTable& t = table(rank);
    const Section* s = &t.sections[std::size_t(r.section)];
    if (++r.position < s->first + s->size) return true;
    if (++r.iteration == s->repeats) {
      r.iteration = 0;
      if (++r.section == int(t.sections.size())) {
        r.section = 0;
        if (++r.step == steps) {
          r.at_end = true;
          compare(rank);
          return true;
        }
      }
    }
    r.position = t.sections[std::size_t(r.section)].first;
    return true;
  }

  void compare(int rank) {
    const auto& expected = expected_[std::size_t(rank)];
    const bool whole = tables_.split.zero.stage < 3;
    const int first = whole ? 0 : own_shard(rank);
    for (int b = 0; b < int(expected.size()); ++b) {
      const Place p{whole ? Store::parameters : Store::parameter_shard, std::int16_t(b)};
      for (int i = 0; i < chunks(rank, p); ++i)
        if (at(rank, p)[i] != expected[std::size_t(b)][std::size_t(first + i)])
          outcome_ = Outcome::wrong_values;
    }
  }
  /// Where the values of this data rank's shard start in a whole bucket.
  int own_shard(int rank) const { return grid_.at(rank).data * tables_.shard(); }

  // compute --------------------------------------------------------------------------------------

  static bool is_joint(Work w) {
    return w == Work::forward || w == Work::backward || w == Work::backward_input;
  }

  bool begin_compute(int rank, const Event& e) {
    Rank& r = ranks_[std::size_t(rank)];
    if (e.work >= Work::clear || !is_joint(e.work) || grid_.tensor == 1) {
      const int self[1] = {rank};
      const Event events[1] = {e};
      return e.work >= Work::clear ? on_buckets(rank, e) : on_units(1, self, events);
    }
    // Tensor ranks exchange partial sums inside: all must have come.
    if (r.arrived) return false;
    r.arrived = true;
    int group[64];
    Event events[64];
    const Coordinates c = grid_.at(rank);
    for (int i = 0; i < grid_.tensor; ++i) {
      group[i] = grid_.member(Group::tensor, c, i);
      const Rank& other = ranks_[std::size_t(group[i])];
      if (!other.arrived) return true;
      events[i] = table(group[i]).events[std::size_t(other.position)];
      events[i].micro += other.iteration;
    }
    for (int i = 0; i < grid_.tensor; ++i) {
      ranks_[std::size_t(group[i])].arrived = false;
      if (events[i].work != e.work || events[i].first != e.first || events[i].count != e.count) {
        outcome_ = Outcome::ends_disagree;
        return true;
      }
    }
    return on_units(grid_.tensor, group, events);
  }

  /// Saved inputs, then gradients of outputs, of each unit of a slot, after x and d.
  bool on_units(int n, const int* group, const Event* events) {
    const Event& e = events[0];
    const StageLayout& layout = table(group[0]).layout;
    if (e.first < layout.first || e.count < 1 || e.first + e.count > layout.first + layout.units)
      return malformed();
    std::vector<std::vector<Value>> slots;
    for (int i = 0; i < n; ++i) {
      const Place activations{Store::activations, events[i].slot};
      if (!exists(group[i], activations)) return malformed();
      const Value* a = at(group[i], activations);
      slots.emplace_back(a, a + chunks(group[i], activations));
    }
    if (e.work == Work::forward && !forward(n, group, events, slots)) return malformed();
    if ((e.work == Work::backward || e.work == Work::backward_input) &&
        !backward_input(n, group, events, slots))
      return malformed();
    for (int i = 0; i < n; ++i) {
      if ((e.work == Work::backward || e.work == Work::backward_weight) &&
          !backward_weight(group[i], events[i], slots[std::size_t(i)]))
        return malformed();
      Value* a = at(group[i], {Store::activations, events[i].slot});
      for (const Value v : slots[std::size_t(i)])
        ranks_[std::size_t(group[i])].writes.push_back({a++, v});
      ranks_[std::size_t(group[i])].computing = true;
    }
    return true;
  }

  /// The parameters of a unit's bucket where the event says they stand.
  const Value* parameters(int rank, const Event& e, int unit) {
    Place p = e.from;
    if (p.store == Store::parameters) p.index = std::int16_t(table(rank).layout.bucket_of(unit));
    if (p.store != Store::parameters && p.store != Store::gathered) return nullptr;
    return exists(rank, p) ? at(rank, p) : nullptr;
  }
  bool sum_over(int n, const int* group, const Event* events, int unit, Value v, Value salt,
                Value& result) {
    Value sum = 0;
    for (int i = 0; i < n; ++i) {
      const Value* p = parameters(group[i], events[i], unit);
      if (p == nullptr) return false;
      sum += mix(unit_of(p, tables_.values(), unit) + salt, v);
    }
    result = mix(v, sum);
    return true;
  }

  bool forward(int n, const int* group, const Event* events,
               std::vector<std::vector<Value>>& slots) {
    const Event& e = events[0];
    const StageLayout& layout = table(group[0]).layout;
    for (int i = 0; i < n; ++i) {
      if (e.first > layout.first) continue;
      const int rank = group[i];
      slots[std::size_t(i)][0] =
          layout.stage == 0
              ? input(ranks_[std::size_t(rank)].step, grid_.at(rank).data, events[i].micro)
              : at(rank, {Store::stream_in, events[i].slot})[0];
    }
    for (int u = e.first; u < e.first + e.count; ++u)
      for (int i = 0; i < n; ++i) {
        auto& slot = slots[std::size_t(i)];
        slot[std::size_t(2 + u - layout.first)] = slot[0];
        if (!sum_over(n, group, events, u, slot[0], 0, slot[0])) return false;
      }
    if (e.first + e.count == layout.first + layout.units && layout.stage + 1 < grid_.pipeline)
      for (int i = 0; i < n; ++i)
        ranks_[std::size_t(group[i])].writes.push_back(
            {at(group[i], {Store::stream_out, events[i].slot}), slots[std::size_t(i)][0]});
    return true;
  }

  bool backward_input(int n, const int* group, const Event* events,
                      std::vector<std::vector<Value>>& slots) {
    const Event& e = events[0];
    const StageLayout& layout = table(group[0]).layout;
    const bool top = e.first + e.count == layout.first + layout.units;
    for (int i = 0; i < n && top; ++i) {
      const int rank = group[i], micro = events[i].micro;
      auto& slot = slots[std::size_t(i)];
      slot[1] =
          layout.stage + 1 == grid_.pipeline
              ? mix(slot[0], label(ranks_[std::size_t(rank)].step, grid_.at(rank).data, micro))
              : at(rank, {Store::d_stream_in, std::int16_t(micro % Split::d_stream_buffers)})[0];
    }
    for (int u = e.first + e.count - 1; u >= e.first; --u)
      for (int i = 0; i < n; ++i) {
        auto& slot = slots[std::size_t(i)];
        slot[std::size_t(2 + layout.units + u - layout.first)] = slot[1];
        if (!sum_over(n, group, events, u, slot[1], 1, slot[1])) return false;
      }
    if (e.first == layout.first && layout.stage > 0)
      for (int i = 0; i < n; ++i)
        ranks_[std::size_t(group[i])].writes.push_back(
            {at(group[i],
                {Store::d_stream_out, std::int16_t(events[i].micro % Split::d_stream_buffers)}),
             slots[std::size_t(i)][1]});
    return true;
  }

  bool backward_weight(int rank, const Event& e, const std::vector<Value>& slot) {
    const StageLayout& layout = table(rank).layout;
    for (int b = 0; b < layout.buckets.size; ++b) {
      const ctrain::Bucket& bucket = layout.buckets.rows[b];
      Place p = e.to;
      if (p.store == Store::gradients) p.index = std::int16_t(b);
      if (p.store != Store::gradients && p.store != Store::reducing) return false;
      if (!exists(rank, p)) return false;
      for (int c = 0; c < tables_.values(); ++c) {
        Value sum = 0;
        bool any = false;
        for (int u = bucket.first; u < bucket.first + bucket.units; ++u) {
          if (u < e.first || u >= e.first + e.count || !tables_.contributes(u, c)) continue;
          any = true;
          sum += gradient(slot[std::size_t(2 + u - layout.first)],
                          slot[std::size_t(2 + layout.units + u - layout.first)], u, c,
                          grid_.at(rank).tensor);
        }
        if (any)
          ranks_[std::size_t(rank)].writes.push_back({at(rank, p) + c, at(rank, p)[c] + sum});
      }
    }
    return true;
  }

  bool on_buckets(int rank, const Event& e) {
    Rank& r = ranks_[std::size_t(rank)];
    const Split& s = tables_.split;
    const int stage = s.zero.stage;
    // What a rank works on: all of a bucket, or its shard, which is a part of the bucket or alone.
    const auto first = [&](Place p) {
      return stage == 0 || chunks(rank, p) == tables_.shard() ? 0 : own_shard(rank);
    };
    const int count = stage == 0 ? tables_.values() : tables_.shard();
    if (e.work == Work::norm) {
      Value sum = 0;
      for (int b = e.first; b < e.first + e.count; ++b) {
        const Place g{e.from.store, std::int16_t(b)};
        if (!exists(rank, g)) return malformed();
        for (int c = 0; c < count; ++c) sum += 3 * at(rank, g)[first(g) + c];
      }
      if (!exists(rank, e.to)) return malformed();
      if (stage == 0 && grid_.at(rank).data > 0) sum = 0;  // what data ranks share counts once
      r.writes.push_back({at(rank, e.to) + rank, sum});
      r.computing = true;
      return true;
    }
    Value norm = 0;
    for (int i = 0; i < chunks(rank, {Store::norms, 0}); ++i)
      norm += at(rank, {Store::norms, 0})[i];
    for (int i = 0; i < e.count; ++i) {
      Place from = e.from, to = e.to;
      const bool buffer = to.store == Store::reducing;
      if (from.store != Store::reducing) from.index = std::int16_t(e.first + i);
      if (!buffer) to.index = std::int16_t(e.first + i);
      if (!exists(rank, to) || (e.work != Work::clear && !exists(rank, from))) return malformed();
      Value* t = at(rank, to);
      if (e.work == Work::clear) {
        for (int c = 0; c < chunks(rank, to); ++c) r.writes.push_back({t + c, 0});
        continue;
      }
      t += first(to);
      const Value* g = at(rank, from) + first(from);
      for (int c = 0; c < count; ++c)
        r.writes.push_back(
            {t + c, e.work == Work::accumulate ? t[c] + g[c] : updated(t[c], g[c], norm)});
    }
    r.computing = true;
    return true;
  }

  // transfers ------------------------------------------------------------------------------------

  bool can_be_shared(int rank, const Event& e) const {
    if (e.to.store == Store::norms)
      return e.from == e.to && chunks(rank, e.to) == grid_.size(e.group);
    if (e.group == Group::tensor) return e.from == e.to && tables_.split.sequence;
    return e.group == Group::data && chunks(rank, e.to) == tables_.values() &&
           (e.from == e.to || chunks(rank, e.from) == tables_.shard());
  }
  /// Calls visit(value) for each value of chunk c: a data rank's shard, a tensor rank's share of
  /// the norms, or one square sum.
  template <class Visit> void each_value(const Event& e, int c, Visit&& visit) const {
    const int w = tables_.shard();
    if (e.to.store == Store::norms) return visit(c);
    if (e.group == Group::data)
      for (int i = 0; i < w; ++i) visit(c * w + i);
    else
      for (int d = 0; d < grid_.data; ++d) visit(d * w + 1 + c);
  }

  bool start_transfer(int rank, const Event& e) {
    Rank& r = ranks_[std::size_t(rank)];
    int lane = int(e.group);
    if (e.kind == EventKind::collective) {
      if (!exists(rank, e.from) || !exists(rank, e.to) || !can_be_shared(rank, e))
        return malformed();
    } else {
      const bool sends = e.kind == EventKind::send;
      const Place p = sends ? e.from : e.to;
      if (!exists(rank, p) || e.peer < 0 || e.peer >= grid_.pipeline) return malformed();
      const bool stream = p.store == Store::stream_out || p.store == Store::stream_in;
      lane = sends ? (stream ? send_stream : send_d_stream)
                   : (stream ? receive_stream : receive_d_stream);
    }
    r.in_flight[std::size_t(r.position)] += 1;
    r.lanes[lane].queue.push_back({e, r.position});
    return next(rank);
  }

  Transfer* front(int rank, int lane) {
    Lane& l = ranks_[std::size_t(rank)].lanes[lane];
    return l.head < l.queue.size() ? &l.queue[l.head] : nullptr;
  }
  void end(int rank, int lane) {
    Rank& r = ranks_[std::size_t(rank)];
    r.in_flight[std::size_t(r.lanes[lane].queue[r.lanes[lane].head].index)] -= 1;
    ++r.lanes[lane].head;
  }

  bool step_lane(int rank, int lane) {
    Transfer* t = front(rank, lane);
    if (t == nullptr || lane == receive_stream || lane == receive_d_stream) return false;
    return lane < send_stream ? step_collective(rank, lane, *t) : step_send(rank, lane, *t);
  }

  bool step_send(int rank, int lane, Transfer& t) {
    Coordinates c = grid_.at(rank);
    const int stage = c.pipeline,
              other_lane = lane == send_stream ? receive_stream : receive_d_stream;
    c.pipeline = t.event.peer;
    const int other = grid_.rank(c);
    Transfer* u = front(other, other_lane);
    if (u == nullptr || u->event.peer != stage) return false;
    if (u->event.size != t.event.size) outcome_ = Outcome::ends_disagree;
    at(other, u->event.to)[0] = at(rank, t.event.from)[0];
    end(rank, lane);
    end(other, other_lane);
    return true;
  }

  const Exchanges& list(const Event& e, int rank) const {
    return lists_[int(e.collective)][int(e.group)]
                 [std::size_t(grid_.position(e.group, grid_.at(rank)))];
  }

  /// This rank's next message of the collective at the head of its lane.
  bool step_collective(int rank, int lane, Transfer& t) {
    const Exchanges& mine = list(t.event, rank);
    if (!t.begun) {
      t.begun = true;
      if (!(t.event.from == t.event.to))
        std::copy_n(at(rank, t.event.from), tables_.shard(),
                    at(rank, t.event.to) + own_shard(rank));
      if (mine.size == 0) end(rank, lane);
      return true;
    }
    if (t.sent) return false;
    const Exchange& x = mine.rows[t.step];
    const int other = grid_.member(t.event.group, grid_.at(rank), x.to);
    Transfer* u = front(other, lane);
    if (u == nullptr || !u->begun || u->received) return false;
    const Exchange& y = list(u->event, other).rows[u->step];
    if (y.from != grid_.position(t.event.group, grid_.at(rank))) return false;
    if (y.receives != x.sends || u->event.size != t.event.size) {
      outcome_ = Outcome::ends_disagree;
      return true;
    }
    const Value* from = at(rank, t.event.to);
    Value* to = at(other, u->event.to);
    for (int c = 0; c < x.sends; ++c)
      each_value(t.event, x.send + c, [&](int i) {
        const int k =
            i + (y.receive - x.send) * (t.event.group == Group::data ? tables_.shard() : 1);
        to[k] = y.add ? to[k] + from[i] : from[i];
      });
    t.sent = true;
    u->received = true;
    finish_exchange(rank, lane);
    finish_exchange(other, lane);
    return true;
  }
  void finish_exchange(int rank, int lane) {
    Transfer* t = front(rank, lane);
    if (!t->sent || !t->received) return;
    t->sent = t->received = false;
    if (++t->step == list(t->event, rank).size) end(rank, lane);
  }

  const Tables& tables_;
  Grid grid_;
  Parameters expected_;
  std::vector<Layout> layouts_;
  std::vector<Exchanges> lists_[3][4];
  std::vector<int> order_;
  std::vector<Rank> ranks_;
  Outcome outcome_ = Outcome::right;
  std::uint64_t actions_ = 0;
};

}  // namespace simulator
