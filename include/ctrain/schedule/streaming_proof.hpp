/// \file  That the table of a streamed step is right, for every order in which its lanes can run.   floor 4: schedule
#pragma once

#include <ctrain/core/say.hpp>
#include <ctrain/schedule/streaming.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ctrain {

// What is shown, and why one walk shows it for all orders: a job waits only for earlier rows, so no
// order hangs. For each row the walk knows which rows of each lane have surely ended before it (its
// clock: what it waits for, what those waited for, and the rows before it in its lane). Two jobs
// that touch the same bytes, one of them writing, must be ordered so; then all orders do what the
// order of the table does, and the walk follows what every buffer and every state holds in it.

// vocabulary -------------------------------------------------------------------------------------

enum class StreamPromise : std::uint8_t {
  kept,
  waits_name_earlier_jobs,
  jobs_make_sense,            // indices in range, on the lane of the task
  touched_bytes_are_ordered,  // no buffer is reused before its copy, and no state read before its
                              // write, has ended
  values_are_there,           // what is read was fetched, computed or kept
  pieces_are_updated_once,    // with the gradient of a whole step, and its norm known
  gradients_count_once,       // each unit's, after all micro-batches, stored and in the norm
  the_step_is_complete
};

struct StreamVerdict {
  StreamPromise broken = StreamPromise::kept;
  int row = -1;
  constexpr bool holds() const { return broken == StreamPromise::kept; }
};

namespace proof {

/// Bytes that nothing else overlaps, by kind and index. Weights and moments of a piece stand apart,
/// since weights alone are read where nothing is updated.
enum class StreamPlace : std::uint8_t {
  weights,          // a buffer on the device
  gradients,        // a buffer on the device
  word_rows,        // on the device
  d_word_rows,      // on the device
  region,           // of activations
  slot,             // staging
  gradient_slot,    // staging
  kept_slot,        // staging
  host_word_rows,   // on the host
  host_d_word_rows  // on the host
};
inline constexpr int stream_places = 10;

/// Who touched some bytes last: one writer, and since then the last reader of each lane, as rows
/// counted from 1. (All zero, because g++ 12 forgets other initialisers in arrays of arrays.)
struct Touched {
  int writer = 0;
  int readers[stream_lanes] = {};
};

/// What a buffer holds.
struct Content {
  int unit = 0, piece = 0, version = 0, pieces = 0;
  int layer = 0, micro = 0;
  bool all_states = false;

  constexpr void forget() { unit = piece = version = layer = micro = -1; }
};

/// A piece's states where they are at home.
struct PieceState {
  Touched weights, moments, gradients;
  int version = 0;                                // 1: updated in this table
  bool gradient_is_new = false, counted = false;  // of this step; in its norm
};

template <int Capacity, int Most> struct StreamWalk {
  const StreamTable<Capacity>& table;
  const Graph& graph;
  const Policy& policy;
  const StreamUnits& units;
  const StreamPlan& plan;
  StreamPass pass;
  Homes homes = homes_of(policy);
  bool deferred = policy.offload.clipping == OffloadClipping::deferred;
  int micros = 1;

  StreamVerdict verdict{};
  int row = 0;
  int clock[Capacity][stream_lanes]{};  // last row of each lane that ended before this one starts
  int latest[stream_lanes] = {-1, -1, -1, -1, -1, -1};
  static constexpr int most_indices = 128;
  Touched touched[stream_places][most_indices]{};
  Content content[stream_places][most_indices]{};
  PieceState pieces[Most]{};
  Touched kept[Most]{};
  bool is_kept[Most]{};
  int forward_to[64]{};   // of each micro-batch: blocks that are forward
  int backward_to[64]{};  // blocks that are to come in backward
  bool embedded[64]{}, headed[64]{}, embedding_done[64]{};
  int last_op[64]{};  // ops done of the block at work
  int gathered = 0;   // pieces of the word table
  bool rows_delivered = false, rows_counted = false, judged = false;

  constexpr StreamWalk(const StreamTable<Capacity>& t, const Graph& g, const Policy& p,
                       const StreamUnits& u, const StreamPlan& m, StreamPass what)
      : table(t), graph(g), policy(p), units(u), plan(m), pass(what) {
    micros = what == StreamPass::flush ? 1 : p.batch.accumulation;
    for (int& b : backward_to) b = units.layers;
    for (auto& place : content)
      for (Content& c : place) c.forget();
    if (homes.weights_stay_on_device)
      for (int unit = 1; unit < units.count(); ++unit)
        content[int(StreamPlace::weights)][unit % most_indices] = {
            .unit = unit, .version = 0, .pieces = units.of(unit).pieces};
  }

  constexpr bool require(bool truth, StreamPromise promise) {
    if (!truth && verdict.holds()) verdict = {promise, row};
    return truth;
  }
  constexpr PieceState& piece_of(int unit, int piece) {
    return pieces[unit * units.most_pieces + piece];
  }
  constexpr Content& in(StreamPlace place, int index) { return content[int(place)][index]; }

  // order ----------------------------------------------------------------------------------------

  constexpr void start_clock(const StreamJob& job) {
    int(&now)[stream_lanes] = clock[row];
    const int lane = int(job.lane), before = latest[lane];
    for (int l = 0; l < stream_lanes; ++l) now[l] = before >= 0 ? clock[before][l] : -1;
    now[lane] = before;
    for (const std::int32_t waited : job.after) {
      if (waited < 0) continue;
      if (!require(waited < row, StreamPromise::waits_name_earlier_jobs)) return;
      for (int l = 0; l < stream_lanes; ++l)
        if (clock[waited][l] > now[l]) now[l] = clock[waited][l];
      const int lane_waited = int(table.rows[waited].lane);
      if (waited > now[lane_waited]) now[lane_waited] = waited;
    }
    latest[lane] = row;
  }
  /// Whether a row, counted from 1, has surely ended.
  constexpr bool after(int other) const {
    return other == 0 || clock[row][int(table.rows[other - 1].lane)] >= other - 1;
  }
  constexpr void read(Touched& t) {
    require(after(t.writer), StreamPromise::touched_bytes_are_ordered);
    t.readers[int(table.rows[row].lane)] = row + 1;
  }
  constexpr void write(Touched& t) {
    bool ordered = after(t.writer);
    for (int& reader : t.readers) {
      ordered = ordered && after(reader);
      reader = 0;
    }
    require(ordered, StreamPromise::touched_bytes_are_ordered);
    t.writer = row + 1;
  }
  constexpr int count_of(StreamPlace place) const {
    switch (place) {
      case StreamPlace::weights:
        return plan.weight_buffers < most_indices ? plan.weight_buffers : most_indices;
      case StreamPlace::gradients:
        return plan.gradient_buffers;
      case StreamPlace::region:
        return plan.regions;
      case StreamPlace::slot:
        return plan.staging_slots;
      case StreamPlace::gradient_slot:
        return plan.gradient_slots;
      case StreamPlace::kept_slot:
        return plan.host_kept_slots;
      default:
        return 1;
    }
  }
  constexpr bool read(StreamPlace place, int index) {
    if (!require(index >= 0 && index < count_of(place), StreamPromise::jobs_make_sense))
      return false;
    read(touched[int(place)][index]);
    return true;
  }
  constexpr bool write(StreamPlace place, int index) {
    if (!require(index >= 0 && index < count_of(place), StreamPromise::jobs_make_sense))
      return false;
    write(touched[int(place)][index]);
    return true;
  }

  // states ---------------------------------------------------------------------------------------

  constexpr void read_states(const StreamJob& j) {
    if (!write(StreamPlace::slot, j.slot)) return;
    PieceState& s = piece_of(j.unit, j.piece);
    if (homes.weights == OffloadTo::disk) read(s.weights);
    if (j.all_states) {
      if (homes.moments == OffloadTo::disk) read(s.moments);
      if (homes.gradients == OffloadTo::disk && j.unit > 0) read(s.gradients);
    }
    in(StreamPlace::slot, j.slot) = {
        .unit = j.unit, .piece = j.piece, .version = s.version, .all_states = j.all_states};
  }
  /// Weights of a piece as the job finds them: in its slot or at home. -1: not there.
  constexpr int find_weights(const StreamJob& j) {
    PieceState& s = piece_of(j.unit, j.piece);
    if (homes.weights == OffloadTo::host) {
      read(s.weights);
      return s.version;
    }
    if (!read(StreamPlace::slot, j.slot)) return -1;
    const Content& c = in(StreamPlace::slot, j.slot);
    return c.unit == j.unit && c.piece == j.piece ? c.version : -1;
  }

  constexpr void update(const StreamJob& j) {
    PieceState& s = piece_of(j.unit, j.piece);
    require(s.version == 0, StreamPromise::pieces_are_updated_once);
    require(deferred ? !s.gradient_is_new : judged && s.gradient_is_new,
            StreamPromise::pieces_are_updated_once);
    const bool staged = units.of(j.unit).record.size() > 0;
    if (staged) {
      if (!write(StreamPlace::slot, j.slot)) return;
      Content& c = in(StreamPlace::slot, j.slot);
      require(c.unit == j.unit && c.piece == j.piece && c.version == 0 && c.all_states,
              StreamPromise::values_are_there);
      c.version = 1;
    }
    if (homes.weights == OffloadTo::host) write(s.weights);
    if (homes.moments == OffloadTo::host) write(s.moments);
    if (j.unit == StreamUnits::word_table)
      read(StreamPlace::host_d_word_rows, 0);
    else if (homes.gradients == OffloadTo::host)
      read(s.gradients);
    if (homes.moments == OffloadTo::host) s.version = 1;
  }
  constexpr void write_states(const StreamJob& j) {
    if (!read(StreamPlace::slot, j.slot)) return;
    PieceState& s = piece_of(j.unit, j.piece);
    const Content& c = in(StreamPlace::slot, j.slot);
    require(c.unit == j.unit && c.piece == j.piece && c.version == 1 && s.version == 0,
            StreamPromise::values_are_there);
    if (homes.weights == OffloadTo::disk) write(s.weights);
    if (homes.moments == OffloadTo::disk) write(s.moments);
    s.version = 1;
  }

  constexpr void deliver(const StreamJob& j) {
    const int version = find_weights(j);
    if (!write(StreamPlace::weights, j.weights)) return;
    Content& c = in(StreamPlace::weights, j.weights);
    if (j.piece == 0) c = {.unit = j.unit, .version = version};
    require(c.unit == j.unit && c.version == version && c.pieces == j.piece && version >= 0,
            StreamPromise::values_are_there);
    ++c.pieces;
  }
  constexpr void gather(const StreamJob& j) {
    const int version = find_weights(j);
    write(StreamPlace::host_word_rows, 0);
    require(j.unit == StreamUnits::word_table && gathered == j.piece && version == wanted(),
            StreamPromise::values_are_there);
    ++gathered;
  }
  constexpr void deliver_rows() {
    read(StreamPlace::host_word_rows, 0);
    write(StreamPlace::word_rows, 0);
    require(gathered == units.of(StreamUnits::word_table).pieces, StreamPromise::values_are_there);
    rows_delivered = true;
  }

  // gradients ------------------------------------------------------------------------------------

  constexpr void collect(const StreamJob& j) {
    if (!read(StreamPlace::gradients, j.gradients)) return;
    const Content& c = in(StreamPlace::gradients, j.gradients);
    require(c.unit == j.unit && c.micro == micros - 1, StreamPromise::gradients_count_once);
    PieceState& s = piece_of(j.unit, j.piece);
    require(!s.gradient_is_new, StreamPromise::gradients_count_once);
    if (homes.gradients == OffloadTo::host) {
      write(s.gradients);
      s.gradient_is_new = true;
    } else if (write(StreamPlace::gradient_slot, j.slot)) {
      in(StreamPlace::gradient_slot, j.slot) = {.unit = j.unit, .piece = j.piece};
    }
  }
  constexpr bool slot_has_gradient(const StreamJob& j) {
    if (!read(StreamPlace::gradient_slot, j.slot)) return false;
    const Content& c = in(StreamPlace::gradient_slot, j.slot);
    return require(c.unit == j.unit && c.piece == j.piece, StreamPromise::values_are_there);
  }
  constexpr void norm(const StreamJob& j) {
    PieceState& s = piece_of(j.unit, j.piece);
    if (homes.gradients == OffloadTo::host)
      read(s.gradients), require(s.gradient_is_new, StreamPromise::values_are_there);
    else
      slot_has_gradient(j);
    require(!s.counted && !judged, StreamPromise::gradients_count_once);
    s.counted = true;
  }
  constexpr void write_gradient(const StreamJob& j) {
    if (!slot_has_gradient(j)) return;
    PieceState& s = piece_of(j.unit, j.piece);
    write(s.gradients);
    s.gradient_is_new = true;
  }

  // activations ----------------------------------------------------------------------------------

  constexpr int kept_index(const StreamJob& j) const { return j.layer * micros + j.micro; }
  constexpr bool holds(StreamPlace place, int index, const StreamJob& j) {
    const Content& c = in(place, index);
    return require(c.layer == j.layer && c.micro == j.micro, StreamPromise::values_are_there);
  }
  constexpr void keep(const StreamJob& j) {
    if (!read(StreamPlace::region, j.region)) return;
    holds(StreamPlace::region, j.region, j);
    if (policy.offload.activations == OffloadTo::disk) {
      if (write(StreamPlace::kept_slot, j.slot))
        in(StreamPlace::kept_slot, j.slot) = {.layer = j.layer, .micro = j.micro};
      return;
    }
    write(kept[kept_index(j)]);
    is_kept[kept_index(j)] = true;
  }
  constexpr void write_kept(const StreamJob& j) {
    if (!read(StreamPlace::kept_slot, j.slot)) return;
    holds(StreamPlace::kept_slot, j.slot, j);
    write(kept[kept_index(j)]);
    is_kept[kept_index(j)] = true;
  }
  constexpr void read_kept(const StreamJob& j) {
    if (!write(StreamPlace::kept_slot, j.slot)) return;
    read(kept[kept_index(j)]);
    require(is_kept[kept_index(j)], StreamPromise::values_are_there);
    in(StreamPlace::kept_slot, j.slot) = {.layer = j.layer, .micro = j.micro};
  }
  constexpr void restore(const StreamJob& j) {
    if (policy.offload.activations == OffloadTo::disk) {
      if (!read(StreamPlace::kept_slot, j.slot)) return;
      holds(StreamPlace::kept_slot, j.slot, j);
    } else {
      read(kept[kept_index(j)]);
      require(is_kept[kept_index(j)], StreamPromise::values_are_there);
    }
    if (!write(StreamPlace::region, j.region)) return;
    in(StreamPlace::region, j.region) = {.layer = j.layer, .micro = j.micro};
  }

  // compute --------------------------------------------------------------------------------------

  /// The version of weights that this pass computes with.
  constexpr int wanted() const { return pass == StreamPass::train && deferred ? 1 : 0; }

  constexpr void read_weights(const StreamJob& j) {
    if (!read(StreamPlace::weights, j.weights)) return;
    const Content& c = in(StreamPlace::weights, j.weights);
    require(c.unit == j.unit && c.pieces == units.of(j.unit).pieces && c.version == wanted(),
            StreamPromise::values_are_there);
  }
  constexpr void write_gradients(const StreamJob& j) {
    if (!write(StreamPlace::gradients, j.gradients)) return;
    Content& c = in(StreamPlace::gradients, j.gradients);
    if (j.micro == 0)
      c = {.unit = j.unit, .micro = 0};
    else
      require(c.unit == j.unit && ++c.micro == j.micro, StreamPromise::gradients_count_once);
  }

  constexpr void compute_block(const StreamJob& j) {
    const bool forward = j.turn == StreamTurn::forward;
    const int all = forward ? graph.forward_block.ops.size : backward_ops(graph, policy);
    Content& region = in(StreamPlace::region, j.region);
    const bool restores = !forward && policy.offload.activations != OffloadTo::none;
    if (j.first == 0 && !restores) region = {.layer = j.layer, .micro = j.micro};
    holds(StreamPlace::region, j.region, j);
    int& done = last_op[j.micro];
    if (j.first == 0) done = 0;
    require(done == j.first, StreamPromise::values_are_there);
    done += j.ops;
    require(forward ? embedded[j.micro] && forward_to[j.micro] == j.layer
                    : headed[j.micro] && backward_to[j.micro] == j.layer + 1,
            StreamPromise::values_are_there);
    if (done < all) return;
    if (forward)
      ++forward_to[j.micro];
    else
      --backward_to[j.micro];
  }

  constexpr void compute(const StreamJob& j) {
    if (!require(j.micro >= 0 && j.micro < micros, StreamPromise::jobs_make_sense)) return;
    read_weights(j);
    if (!write(StreamPlace::region, j.region)) return;
    if (j.gradients >= 0) write_gradients(j);
    const int layers = units.layers;
    switch (j.turn) {
      case StreamTurn::embed:
        read(StreamPlace::word_rows, 0);
        require(j.unit == StreamUnits::tables && rows_delivered && !embedded[j.micro],
                StreamPromise::values_are_there);
        embedded[j.micro] = true;
        return;
      case StreamTurn::forward:
      case StreamTurn::backward:
        require(units.layer(j.unit) == j.layer, StreamPromise::values_are_there);
        return compute_block(j);
      case StreamTurn::head:
        require(j.unit == units.head() && forward_to[j.micro] == layers,
                StreamPromise::values_are_there);
        headed[j.micro] = true;
        return;
      case StreamTurn::embed_backward:
        write(StreamPlace::d_word_rows, 0);
        require(
            j.unit == StreamUnits::tables && backward_to[j.micro] == 0 && !embedding_done[j.micro],
            StreamPromise::values_are_there);
        embedding_done[j.micro] = true;
        return;
    }
  }

  // the walk -------------------------------------------------------------------------------------

  constexpr bool makes_sense(const StreamJob& j) {
    constexpr StreamLane lanes[] = {StreamLane::device, StreamLane::down,  StreamLane::down,
                                    StreamLane::down,   StreamLane::up,    StreamLane::up,
                                    StreamLane::up,     StreamLane::host,  StreamLane::host,
                                    StreamLane::host,   StreamLane::host,  StreamLane::host,
                                    StreamLane::reads,  StreamLane::reads, StreamLane::writes,
                                    StreamLane::writes, StreamLane::writes};
    const bool of_piece = j.piece >= 0, of_block = j.layer >= 0;
    return require(lanes[int(j.task)] == j.lane &&
                       (!of_piece || (j.unit >= 0 && j.unit < units.count() &&
                                      j.piece < units.of(j.unit).pieces)) &&
                       (!of_block || (j.layer < units.layers && j.micro >= 0 && j.micro < micros)),
                   StreamPromise::jobs_make_sense);
  }

  constexpr void step(const StreamJob& j) {
    start_clock(j);
    if (!verdict.holds() || !makes_sense(j)) return;
    switch (j.task) {
      case StreamTask::compute:
        return compute(j);
      case StreamTask::deliver:
        return deliver(j);
      case StreamTask::deliver_rows:
        return deliver_rows();
      case StreamTask::restore:
        return restore(j);
      case StreamTask::collect:
        return collect(j);
      case StreamTask::collect_rows:
        read(StreamPlace::d_word_rows, 0);
        write(StreamPlace::host_d_word_rows, 0);
        require(embedding_done[micros - 1], StreamPromise::gradients_count_once);
        for (int i = 0; i < units.of(StreamUnits::word_table).pieces; ++i)
          piece_of(StreamUnits::word_table, i).gradient_is_new = true;
        return;
      case StreamTask::keep:
        return keep(j);
      case StreamTask::gather:
        return gather(j);
      case StreamTask::update:
        return update(j);
      case StreamTask::norm:
        return norm(j);
      case StreamTask::norm_rows:
        read(StreamPlace::host_d_word_rows, 0);
        require(!rows_counted && !judged, StreamPromise::gradients_count_once);
        rows_counted = true;
        return;
      case StreamTask::judge:
        judged = rows_counted;
        for (int unit = 1; unit < units.count(); ++unit)
          for (int i = 0; i < units.of(unit).pieces; ++i)
            judged = judged && piece_of(unit, i).counted;
        require(judged, StreamPromise::gradients_count_once);
        return;
      case StreamTask::read:
        return read_states(j);
      case StreamTask::read_kept:
        return read_kept(j);
      case StreamTask::write:
        return write_states(j);
      case StreamTask::write_gradient:
        return write_gradient(j);
      case StreamTask::write_kept:
        return write_kept(j);
    }
  }

  constexpr bool is_complete() {
    const bool updates = pass != StreamPass::evaluate, trains = pass == StreamPass::train;
    for (int unit = 0; unit < units.count(); ++unit) {
      for (int i = 0; i < units.of(unit).pieces; ++i) {
        const PieceState& s = piece_of(unit, i);
        if (s.version != (updates ? 1 : 0) || s.gradient_is_new != trains) return false;
      }
      if (!homes.weights_stay_on_device || unit == StreamUnits::word_table) continue;
      const Content& c = in(StreamPlace::weights, unit);
      if (c.unit != unit || c.version != (updates ? 1 : 0) || c.pieces != units.of(unit).pieces)
        return false;
    }
    for (int m = 0; m < micros && pass != StreamPass::flush; ++m)
      if (!headed[m] || embedding_done[m] != trains) return false;
    return judged == trains;
  }

  constexpr StreamVerdict walk() {
    if (!require(plan.weight_buffers <= most_indices, StreamPromise::jobs_make_sense))
      return verdict;
    for (row = 0; row < table.size && verdict.holds(); ++row) step(table.rows[row]);
    if (verdict.holds()) require(is_complete(), StreamPromise::the_step_is_complete);
    return verdict;
  }
};

}  // namespace proof

/// Every promise, or the first that a row breaks.
template <int Most, int Capacity>
constexpr StreamVerdict prove(const StreamTable<Capacity>& table, const Graph& g, const Policy& p,
                              const StreamUnits& units, const StreamPlan& plan, StreamPass pass) {
  return proof::StreamWalk<Capacity, Most>(table, g, p, units, plan, pass).walk();
}

// templates --------------------------------------------------------------------------------------

namespace say {

template <StreamPass Pass, int Row, StreamTask Task, int Unit, int Piece>
inline constexpr bool stream_promise_is_kept = false;

template <StreamPromise Broken, StreamPass Pass, int Row, StreamTask Task, int Unit, int Piece>
struct stream_breaks_a_promise {
  static_assert(stream_promise_is_kept<Pass, Row, Task, Unit, Piece>,
                "internal: the table of a streamed step is not proved. The names around this "
                "message say which promise is broken, and by which row.");
};
struct stream_is_proved {};

template <class Device, class Host, class Has> inline constexpr bool streamed_plan_fits = false;

template <class OnDevice, class OnHost, class Has> struct streamed_memory_exceeded {
  static_assert(streamed_plan_fits<OnDevice, OnHost, Has>,
                "memory budget exceeded. The plan of this stream is named around this message: "
                "what it needs on the device, what on the host (which counts where the device is "
                "the host), and what the device has. Send more away (offload.parameters, "
                "offload.activations), set offload.unit = StreamBy::matrix or recompute = full, or "
                "make the batch smaller.");
};
struct streamed_memory_suffices {};

}  // namespace say

/// The proof of one table of a policy. Instantiating `check` makes it.
template <class P, StreamPass Pass> struct CheckStream {
  static constexpr const auto& table = StreamTableOf<P, Pass>::table;
  static constexpr StreamVerdict verdict = prove<StreamTableOf<P, Pass>::most>(
      table, StreamOf<P>::graph, P::policy, StreamOf<P>::units, StreamOf<P>::plan, Pass);

 private:
  template <bool Holds, class Q> struct words_of { using type = say::stream_is_proved; };
  template <class Q> struct words_of<false, Q> {
    static constexpr StreamJob job = table.rows[verdict.row < table.size ? verdict.row : 0];
    using type = say::stream_breaks_a_promise<verdict.broken, Pass, verdict.row, job.task, job.unit,
                                              job.piece>;
  };

 public:
  using check = typename words_of<verdict.holds(), P>::type;
};

/// True, or a compile error: all tables of a policy keep every promise.
template <class P>
constexpr bool check_stream(
    std::size_t = sizeof(typename CheckStream<P, StreamPass::train>::check) +
                  sizeof(typename CheckStream<P, StreamPass::evaluate>::check)) {
  if constexpr (P::policy.offload.clipping == OffloadClipping::deferred)
    static_assert(sizeof(typename CheckStream<P, StreamPass::flush>::check));
  return true;
}

/// A streamed policy's plan within its device, and its proved tables.
template <class P> struct CheckStreamed {
  static constexpr const auto& plan = StreamOf<P>::plan;
  static constexpr bytes counted =
      plan.device() + plan.runtime + (P::policy.device.kind == DeviceKind::host ? plan.host() : 0);
  static_assert(check_stream<P>());

 private:
  template <bool Fits, class Q> struct verdict_of { using type = say::streamed_memory_suffices; };
  template <class Q> struct verdict_of<false, Q> {
    using type =
        say::streamed_memory_exceeded<say::gib<plan.device() + plan.runtime>, say::gib<plan.host()>,
                                      say::gib<Q::policy.device.memory>>;
  };

 public:
  using check = typename verdict_of<(counted <= P::policy.device.memory), P>::type;
};

}  // namespace ctrain
