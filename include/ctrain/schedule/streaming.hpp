/// \file  A streamed step as a table: what moves, what computes, and what each waits for.   floor 4: schedule
#pragma once

#include <ctrain/core/hash.hpp>
#include <ctrain/memory/offload.hpp>

#include <cstdint>

namespace ctrain {

// A job belongs to a lane. Jobs of one lane happen in the order of the table, those of different
// lanes at the same time, except that a job waits for those it names. Since it only names earlier
// ones, the first job of the table that has not ended can always go on: no order hangs.

// vocabulary -------------------------------------------------------------------------------------

/// `down` and `up` are the two directions of the link between host and device.
enum class StreamLane : std::uint8_t { device, down, up, host, reads, writes };
inline constexpr int stream_lanes = 6;

enum class StreamTask : std::uint8_t {
  compute,         // device: ops of one unit for one micro-batch
  deliver,         // down: a piece of weights
  deliver_rows,    // down: the rows of the word table that the batch reads
  restore,         // down: what a block kept of a micro-batch
  collect,         // up: a piece of gradients
  collect_rows,    // up: the gradients of those rows
  keep,            // up: what a block keeps of a micro-batch
  gather,          // host: the rows of the batch that lie in a piece of the word table
  update,          // host: the optimizer on a piece
  norm,            // host: the square sum of a piece of gradients
  norm_rows,       // host: that of the word rows' gradients
  judge,           // host: the gradient's norm, and with it the clip
  read,            // reads: a piece's weights or, before an update, all of its states
  read_kept,       // reads: what a block kept
  write,           // writes: a piece's states after its update
  write_gradient,  // writes: a piece of gradients
  write_kept       // writes: what a block keeps
};

/// What a compute job runs. `head` is its forward and its backward.
enum class StreamTurn : std::uint8_t { embed, forward, head, backward, embed_backward };

/// One row. Numbers that a task does not use are -1 or 0.
struct StreamJob {
  StreamLane lane = StreamLane::device;
  StreamTask task = StreamTask::compute;
  StreamTurn turn = StreamTurn::embed;
  bool all_states = false;         // read: not only weights
  std::int8_t first = 0, ops = 0;  // compute: of a block's forward ops, or of recompute + backward
  std::int8_t slot = -1;           // staging: of states, of gradients or of activations
  std::int8_t gradients = -1;      // buffer on the device
  std::int8_t region = -1;         // of activations
  std::int16_t unit = -1, piece = -1, weights = -1;  // weights: buffer on the device
  std::int16_t layer = -1, micro = -1;
  std::int32_t after[4] = {-1, -1, -1, -1};  // earlier rows that must have ended

  friend constexpr bool operator==(const StreamJob&, const StreamJob&) = default;
};

/// `train` of a deferring policy begins with the update of the step before; `flush` is that update
/// alone.
enum class StreamPass : std::uint8_t { train, evaluate, flush };

template <int Capacity> using StreamTable = Table<StreamJob, Capacity>;

/// Consecutive ops of a program that need the weights of one kind of unit.
struct OpRun {
  int kind = 0, first = 0, ops = 0;
};
using OpRuns = Table<OpRun, 32>;

// functions --------------------------------------------------------------------------------------

/// A block's ops in backward: those that are computed again, then the derived ones.
constexpr int ops_again(const Graph& g, const Policy& p) {
  return p.recompute == Recompute::full ? g.recompute_block.ops.size : 0;
}
constexpr int backward_ops(const Graph& g, const Policy& p) {
  return ops_again(g, p) + g.backward_block.ops.size;
}
constexpr const Op& backward_op(const Graph& g, const Policy& p, int i) {
  const int again = ops_again(g, p);
  if (again == 0) return g.backward_block.ops.rows[i];
  return i < again ? g.recompute_block.ops.rows[i] : g.backward_block.ops.rows[i - again];
}

/// Runs of a block's ops. An op without parameters goes with the one before it, the first ones with
/// the one after.
constexpr OpRuns runs_of(const Graph& g, const StreamUnits& units, const Policy& p, bool backward) {
  OpRuns runs;
  const int count = backward ? backward_ops(g, p) : g.forward_block.ops.size;
  int kind = -1, begin = 0;
  for (int i = 0; i < count; ++i) {
    const Op& op = backward ? backward_op(g, p, i) : g.forward_block.ops.rows[i];
    if (op.parameter < 0) continue;
    const int now = units.kind_of_parameter(op.parameter);
    if (kind >= 0 && now != kind) {
      runs.add({kind, begin, i - begin});
      begin = i;
    }
    kind = now;
  }
  runs.add({kind, begin, count - begin});
  return runs;
}

/// Whether a run writes gradients of weights: recomputed ops do not.
constexpr bool writes_gradients(const Graph& g, const Policy& p, const OpRun& run) {
  for (int i = run.first; i < run.first + run.ops; ++i)
    if (i >= ops_again(g, p) && backward_op(g, p, i).parameter >= 0) return true;
  return false;
}

/// More rows than any table of the policy has.
constexpr int most_stream_jobs(const Graph& g, const Policy& p, const StreamUnits& units) {
  int pieces = 0;
  for (int unit = 0; unit < units.count(); ++unit) pieces += units.of(unit).pieces;
  const int visits =
      3 + p.model.layers * (runs_of(g, units, p, false).size + runs_of(g, units, p, true).size);
  return 18 * pieces + 6 * visits * p.batch.accumulation + 8;
}

/// Writes the rows of a step or, without a table, only counts them. Methods are in the order in
/// which a step happens. `Capacity` is at least most_stream_jobs().
template <int Capacity, class Table> struct StreamWriter {
  static constexpr int most_buffers = 8;

  const Graph& graph;
  const Policy& policy;
  const StreamUnits& units;
  const StreamPlan& plan;
  StreamPass pass = StreamPass::train;
  Table* table = nullptr;
  int size = 0;

  Homes homes = homes_of(policy);
  int micros = 1;
  // The jobs that last used a buffer, and what it holds.
  int weights_user[most_buffers]{}, weights_unit[most_buffers]{}, weights_age[most_buffers]{};
  int gradients_user[most_buffers]{}, next_gradients = 0;
  int slot_user[most_buffers][2]{}, next_slot = 0;
  int gradient_slot_user[most_buffers][2]{}, next_gradient_slot = 0;
  int kept_slot_user[most_buffers]{}, next_kept_slot = 0;
  int region_kept[2]{}, region_computed[2]{}, next_region = 0;
  int delivered = -1, delivered_rows = -1;
  OpRuns forward_runs = runs_of(graph, units, policy, false),
         backward_runs = runs_of(graph, units, policy, true);
  // Rows counted from 1, 0 for none: the write of each piece's states or gradients, and the last
  // write of what each block keeps of each micro-batch.
  int written[Capacity]{}, kept[Capacity]{};

  constexpr StreamWriter(const Graph& g, const Policy& p, const StreamUnits& u, const StreamPlan& m,
                         StreamPass what, Table* to)
      : graph(g), policy(p), units(u), plan(m), pass(what), table(to) {
    micros = pass == StreamPass::flush ? 1 : p.batch.accumulation;
    for (int i = 0; i < most_buffers; ++i) {
      weights_user[i] = weights_unit[i] = weights_age[i] = gradients_user[i] = -1;
      slot_user[i][0] = slot_user[i][1] = -1;
      gradient_slot_user[i][0] = gradient_slot_user[i][1] = kept_slot_user[i] = -1;
    }
    for (int i = 0; i < 2; ++i) region_kept[i] = region_computed[i] = -1;
  }

  constexpr int add(StreamJob job, int a = -1, int b = -1, int c = -1, int d = -1) {
    int count = 0;
    for (const int row : {a, b, c, d})
      if (row >= 0) job.after[count++] = row;
    if (table != nullptr) table->add(job);
    return size++;
  }
  constexpr int& written_of(int unit, int piece) {
    return written[unit * units.most_pieces + piece];
  }
  constexpr int& kept_of(int layer, int micro) { return kept[layer * micros + micro]; }

  // weights --------------------------------------------------------------------------------------

  /// The buffer for a unit's weights: where they are, or the one that was used longest ago.
  constexpr int buffer_for(int unit) const {
    if (homes.weights_stay_on_device) return unit;
    int oldest = 0;
    for (int b = 0; b < plan.weight_buffers; ++b) {
      if (weights_unit[b] == unit) return b;
      if (weights_age[b] < weights_age[oldest]) oldest = b;
    }
    return oldest;
  }
  constexpr bool is_on_device(int unit) const {
    return homes.weights_stay_on_device || weights_unit[buffer_for(unit)] == unit;
  }

  /// One piece: from its homes through a staging slot, updated on the way if so, to the device.
  constexpr void fetch_piece(int unit, int piece, bool update, int buffer) {
    const StreamUnit& u = units.of(unit);
    const bool word_table = unit == StreamUnits::word_table;
    const PieceRecord& record = u.record;
    const bool reads = update ? record.size() > 0 : record.weights > 0;
    StreamJob job{.unit = std::int16_t(unit), .piece = std::int16_t(piece)};
    int ready = -1, users[2] = {-1, -1};
    if (reads) {
      const int slot = next_slot++ % plan.staging_slots;
      job.slot = std::int8_t(slot);
      StreamJob read = job;
      read.lane = StreamLane::reads, read.task = StreamTask::read, read.all_states = update;
      ready = add(read, slot_user[slot][0], slot_user[slot][1], written_of(unit, piece) - 1);
    }
    if (update) {
      job.lane = StreamLane::host, job.task = StreamTask::update;
      ready = users[0] = add(job, ready);
      if (record.states() > 0) {
        job.lane = StreamLane::writes, job.task = StreamTask::write;
        users[0] = add(job, ready);
        written_of(unit, piece) = users[0] + 1;
      }
    }
    if (word_table && pass != StreamPass::flush && delivered_rows < 0) {
      job.lane = StreamLane::host, job.task = StreamTask::gather;
      users[1] = add(job, update ? -1 : ready);
    } else if (!word_table && buffer >= 0) {
      job.lane = StreamLane::down, job.task = StreamTask::deliver;
      job.weights = std::int16_t(buffer);
      const int freed = homes.weights_stay_on_device || piece > 0 ? -1 : weights_user[buffer];
      delivered = users[1] = add(job, ready, freed);
    }
    if (reads) slot_user[job.slot][0] = users[0], slot_user[job.slot][1] = users[1];
    if (word_table && users[1] >= 0 && piece + 1 == u.pieces)
      delivered_rows = add({.lane = StreamLane::down, .task = StreamTask::deliver_rows}, users[1]);
  }
  constexpr void fetch(int unit, bool update, int buffer) {
    for (int piece = 0; piece < units.of(unit).pieces; ++piece)
      fetch_piece(unit, piece, update, buffer);
  }

  /// Brings a unit's weights for the ops that follow; returns their buffer.
  constexpr int bring(int unit, bool update) {
    const int buffer = buffer_for(unit);
    if (update || !is_on_device(unit)) fetch(unit, update, buffer);
    if (!homes.weights_stay_on_device) {
      weights_unit[buffer] = unit;
      weights_age[buffer] = size;
    }
    return buffer;
  }

  // activations ----------------------------------------------------------------------------------

  constexpr bool keeps_elsewhere() const {
    return pass == StreamPass::train && policy.offload.activations != OffloadTo::none;
  }
  constexpr bool keeps_on_disk() const { return policy.offload.activations == OffloadTo::disk; }

  constexpr void keep(int layer, int micro, int region, int computed) {
    StreamJob job{.lane = StreamLane::up,
                  .task = StreamTask::keep,
                  .region = std::int8_t(region),
                  .layer = std::int16_t(layer),
                  .micro = std::int16_t(micro)};
    if (!keeps_on_disk()) {
      region_kept[region] = add(job, computed);
      kept_of(layer, micro) = region_kept[region] + 1;
      return;
    }
    const int slot = next_kept_slot++ % plan.host_kept_slots;
    job.slot = std::int8_t(slot);
    region_kept[region] = add(job, computed, kept_slot_user[slot]);
    job.lane = StreamLane::writes, job.task = StreamTask::write_kept;
    kept_slot_user[slot] = add(job, region_kept[region]);
    kept_of(layer, micro) = kept_slot_user[slot] + 1;
  }
  constexpr int restore(int layer, int micro, int region) {
    StreamJob job{
        .region = std::int8_t(region), .layer = std::int16_t(layer), .micro = std::int16_t(micro)};
    int ready = kept_of(layer, micro) - 1;
    if (keeps_on_disk()) {
      const int slot = next_kept_slot++ % plan.host_kept_slots;
      job.slot = std::int8_t(slot);
      job.lane = StreamLane::reads, job.task = StreamTask::read_kept;
      ready = add(job, ready, kept_slot_user[slot]);
    }
    job.lane = StreamLane::down, job.task = StreamTask::restore;
    const int row = add(job, ready, region_computed[region], region_kept[region]);
    if (keeps_on_disk()) kept_slot_user[job.slot] = row;
    return row;
  }

  // a unit's turn --------------------------------------------------------------------------------

  /// The pieces of a unit's gradient to where they wait, and their square sums.
  constexpr void collect(int unit, int buffer, int computed) {
    const StreamUnit& u = units.of(unit);
    const bool on_disk = u.record.gradients > 0;
    for (int piece = 0; piece < u.pieces; ++piece) {
      StreamJob job{.lane = StreamLane::up,
                    .task = StreamTask::collect,
                    .gradients = std::int8_t(buffer),
                    .unit = std::int16_t(unit),
                    .piece = std::int16_t(piece)};
      const int slot = on_disk ? next_gradient_slot++ % plan.gradient_slots : -1;
      job.slot = std::int8_t(slot);
      const int row =
          add(job, piece == 0 ? computed : -1, on_disk ? gradient_slot_user[slot][0] : -1,
              on_disk ? gradient_slot_user[slot][1] : -1);
      gradients_user[buffer] = row;
      job.gradients = -1;
      job.lane = StreamLane::host, job.task = StreamTask::norm;
      const int norm = add(job, row);
      if (!on_disk) continue;
      job.lane = StreamLane::writes, job.task = StreamTask::write_gradient;
      const int write = add(job, row);
      written_of(unit, piece) = write + 1;
      gradient_slot_user[slot][0] = norm, gradient_slot_user[slot][1] = write;
    }
  }

  struct Turn {
    StreamTurn turn;
    int unit, first = 0, ops = 0, layer = -1;
    bool update = false, begins = true, ends = true, gradient = false;
  };

  /// All micro-batches through the ops that need one unit.
  constexpr void take(const Turn& t) {
    delivered = -1;
    const int weights = bring(t.unit, t.update);
    const int buffer = t.gradient ? next_gradients++ % plan.gradient_buffers : -1;
    for (int micro = 0; micro < micros; ++micro) {
      if (t.begins) ++next_region;
      const int region = next_region % plan.regions;
      const int restored = t.turn == StreamTurn::backward && t.begins && keeps_elsewhere()
                               ? restore(t.layer, micro, region)
                               : -1;
      const StreamJob job{.turn = t.turn,
                          .first = std::int8_t(t.first),
                          .ops = std::int8_t(t.ops),
                          .gradients = std::int8_t(buffer),
                          .region = std::int8_t(region),
                          .unit = std::int16_t(t.unit),
                          .weights = std::int16_t(weights),
                          .layer = std::int16_t(t.layer),
                          .micro = std::int16_t(micro)};
      const bool first = micro == 0;
      const int rows = t.turn == StreamTurn::embed && first ? delivered_rows : -1;
      const int row =
          add(job, first ? delivered : -1, first && buffer >= 0 ? gradients_user[buffer] : -1,
              restored >= 0 ? restored : region_kept[region], rows);
      if (restored < 0) region_kept[region] = -1;
      region_computed[region] = row;
      if (t.turn == StreamTurn::forward && t.ends && keeps_elsewhere())
        keep(t.layer, micro, region, row);
      if (micro + 1 < micros) continue;
      if (!homes.weights_stay_on_device) weights_user[weights] = row;
      if (buffer >= 0) collect(t.unit, buffer, row);
      if (t.turn == StreamTurn::embed_backward) {
        const int up = add({.lane = StreamLane::up, .task = StreamTask::collect_rows});
        add({.lane = StreamLane::host, .task = StreamTask::norm_rows}, up);
      }
    }
  }

  constexpr void block(int layer, bool backward, bool update) {
    const OpRuns& runs = backward ? backward_runs : forward_runs;
    for (int i = 0; i < runs.size; ++i)
      take({.turn = backward ? StreamTurn::backward : StreamTurn::forward,
            .unit = units.block(layer, runs.rows[i].kind - 2),
            .first = runs.rows[i].first,
            .ops = runs.rows[i].ops,
            .layer = layer,
            .update = update,
            .begins = i == 0,
            .ends = i + 1 == runs.size,
            .gradient = backward && writes_gradients(graph, policy, runs.rows[i])});
  }

  constexpr void update_all() {
    for (int unit = 0; unit < units.count(); ++unit)
      fetch(unit, true, homes.weights_stay_on_device ? unit : -1);
  }

  // the step -------------------------------------------------------------------------------------

  constexpr void write() {
    if (pass == StreamPass::flush) return update_all();
    const bool trains = pass == StreamPass::train,
               deferred = policy.offload.clipping == OffloadClipping::deferred,
               update = trains && deferred;
    fetch(StreamUnits::word_table, update, -1);
    take({.turn = StreamTurn::embed, .unit = StreamUnits::tables, .update = update});
    for (int layer = 0; layer < units.layers; ++layer) block(layer, false, update);
    take({.turn = StreamTurn::head, .unit = units.head(), .update = update, .gradient = trains});
    if (!trains) return;
    for (int layer = units.layers - 1; layer >= 0; --layer) block(layer, true, false);
    take({.turn = StreamTurn::embed_backward, .unit = StreamUnits::tables, .gradient = true});
    add({.lane = StreamLane::host, .task = StreamTask::judge});
    if (!deferred) update_all();
  }
};

/// The table of a pass over the model.
template <int Capacity, int Most>
constexpr StreamTable<Capacity> build_stream(const Graph& g, const Policy& p,
                                             const StreamUnits& units, const StreamPlan& plan,
                                             StreamPass pass) {
  StreamTable<Capacity> table;
  StreamWriter<Most, StreamTable<Capacity>>(g, p, units, plan, pass, &table).write();
  return table;
}
/// How many rows that table has.
template <int Most>
constexpr int stream_jobs(const Graph& g, const Policy& p, const StreamUnits& units,
                          const StreamPlan& plan, StreamPass pass) {
  StreamWriter<Most, StreamTable<1>> writer(g, p, units, plan, pass, nullptr);
  writer.write();
  return writer.size;
}

/// Fingerprint of a table.
template <int Capacity> std::uint64_t hash_of(const StreamTable<Capacity>& table) {
  Hash h;
  for (const StreamJob& job : table) {
    for (const int number :
         {int(job.lane), int(job.task), int(job.turn), int(job.all_states), int(job.first),
          int(job.ops), int(job.slot), int(job.gradients), int(job.region), int(job.unit),
          int(job.piece), int(job.weights), int(job.layer), int(job.micro)})
      h.add(std::uint64_t(number));
    for (const std::int32_t row : job.after) h.add(std::uint64_t(row));
  }
  return h.value;
}

// templates --------------------------------------------------------------------------------------

/// The tables of a policy that offloads.
template <class P, StreamPass Pass> struct StreamTableOf {
  using Of = StreamOf<P>;
  static constexpr int most = most_stream_jobs(Of::graph, P::policy, Of::units);
  static constexpr int capacity =
      stream_jobs<most>(Of::graph, P::policy, Of::units, Of::plan, Pass);
  static constexpr StreamTable<capacity> table =
      build_stream<capacity, most>(Of::graph, P::policy, Of::units, Of::plan, Pass);
};

}  // namespace ctrain
