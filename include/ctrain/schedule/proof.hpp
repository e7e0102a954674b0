/// \file  That a schedule is right, for every order in which ranks and transfers can run.   floor 4: schedule
#pragma once

#include <ctrain/schedule/build.hpp>
#include <ctrain/schedule/collectives.hpp>

#include <cstdint>

namespace ctrain {

// What is shown, and why one walk shows it for all orders: a table has no choices. A transfer ends
// when all its members have reached it (sends are never buffered) and the transfers before it in
// its lane have ended; a wait goes on when its transfer has ended. Whatever is possible stays
// possible until it is done, so every order ends in the same state, and if one walk reaches the
// end, none hangs. Bytes of a transfer count as touched from its start to its wait, whenever it
// really runs; if nothing else touches them in between, then no order does. What bytes mean (which
// bucket, which micro-batches are in a gradient, whether it was reduced) is followed in the same
// walk. A collective counts as one transfer that starts when its last member came; collectives.hpp
// shows that its exchanges then end by themselves.

// vocabulary -------------------------------------------------------------------------------------

/// What a schedule promises; the verdict names the first promise that an event breaks.
enum class Promise : std::uint8_t {
  kept,
  events_make_sense,       // indices in range, kinds and places that belong together
  peers_agree,             // same order, kind, payload and place in each group; receives meet sends
  every_transfer_ends,     // no rank waits for ever, with unbuffered sends
  bytes_in_flight_rest,    // nothing touches what a transfer reads or writes before its wait
  buffers_have_one_owner,  // acquired before use, released after it, no sooner
  values_are_there,        // what is read was computed, received, reduced or gathered
  payloads_are_whole,      // bytes of a transfer are those of its bucket or stream
  gradients_count_once,    // each micro-batch of each rank, in order, in each shard
  the_step_is_complete     // every parameter is updated, and where it is needed
};

struct Verdict {
  Promise broken = Promise::kept;
  int rank = -1;
  int index = -1;  // in the rank's table
  constexpr bool holds() const { return broken == Promise::kept; }
};

namespace proof {

/// Lanes of one rank: one per group, one per direction to each neighbouring stage.
enum Lane : int { group_lanes = 0, to_next = 4, from_next, to_previous, from_previous, lanes };

enum class Version : std::uint8_t { before_update, own_shard_updated, updated };
enum class Reducing : std::uint8_t { undefined, cleared, own, reduced };
enum class Progress : std::uint8_t { idle, started, ended };
enum class Norm : std::uint8_t { none, own_part, all };
enum class Signs : std::uint8_t { none, own, received, served, all };

/// Gradients of one bucket that a rank keeps over micro-batches.
struct Gradients {
  bool cleared = false, norms_summed = false, reduced = false;
  int micro_batches = 0;
};

/// A micro-batch between its forward and its last backward.
struct Activations {
  int micro = -1;
  int forward_end = 0;   // units below are forward
  int input_begin = 0;   // units from here up have gradients of their inputs
  int weight_begin = 0;  // and of their weights
  int received = -1;     // micro-batch whose stream came in
  int to_send = -1;      // micro-batch whose stream is to go out
};

struct ReducingBuffer {
  Reducing state = Reducing::undefined;
  int bucket = -1, micro = -1;
  bool norms_summed = false;
};

/// All there is to know about one rank while it walks its table.
template <int Capacity> struct Walker {
  int section = 0, iteration = 0, position = 0;
  bool at_end = false;
  int in_flight = 0, owned_buffers = 0;
  Progress progress[Capacity]{};
  std::int16_t next_on_lane[Capacity]{};
  int head[lanes]{}, tail[lanes]{};
  std::int8_t read_by[store_kinds * most_places]{}, written_by[store_kinds * most_places]{};
  bool owned[store_kinds * most_places]{};

  Version versions[most_buckets]{};
  Gradients gradients[most_buckets]{};
  int gathered[most_places]{};  // the bucket in each buffer
  ReducingBuffer reducing[Split::reduce_buffers]{};
  Activations slots[most_places]{};
  int d_stream_in[Split::d_stream_buffers]{}, d_stream_out[Split::d_stream_buffers]{};
  int begun = 0;  // micro-batches
  Norm norm = Norm::none;
  Signs signs = Signs::none;

  constexpr Walker() {
    for (int& h : head) h = -1;
    for (int& b : gathered) b = -1;
    for (int& m : d_stream_in) m = -1;
    for (int& m : d_stream_out) m = -1;
  }
};

constexpr int index_of(Place p) {
  return int(p.store) * most_places + p.index;
}

/// Units of work that tensor ranks do together, exchanging partial sums in every block.
constexpr bool is_joint(Work w) {
  return w == Work::forward || w == Work::backward || w == Work::backward_input;
}

/// Walks all ranks of the grid `walked` together. It is either the schedule's own grid, or the same
/// with one data and one tensor rank; see prove().
template <int Ranks, int Capacity> struct Walk {
  using Table = StageTable<Capacity>;

  const Split& split;
  Grid walked;
  const StageLayout* layouts[Ranks]{};
  const Table* tables[Ranks]{};
  Walker<Capacity> walkers[Ranks]{};
  Verdict verdict{};

  constexpr bool ok() const { return verdict.holds(); }
  /// Keeps the first fault.
  constexpr bool require(bool truth, Promise promise, int rank) {
    if (!truth && ok()) verdict = {promise, rank, walkers[rank].position};
    return truth;
  }
  constexpr const Event& event(int rank, int index) const {
    return tables[rank]->events.rows[index];
  }

  // places ---------------------------------------------------------------------------------------

  constexpr int count_of(int rank, Store store) const {
    const int stage = walked.at(rank).pipeline;
    switch (store) {
      case Store::nothing:
      case Store::norms:
      case Store::signs:
      case Store::means:
        return 1;
      case Store::gathered:
        return split.gather_buffers();
      case Store::reducing:
        return Split::reduce_buffers;
      case Store::activations:
      case Store::stream_in:
      case Store::stream_out:
        return split.slots(stage);
      case Store::d_stream_in:
      case Store::d_stream_out:
        return Split::d_stream_buffers;
      default:
        return layouts[rank]->buckets.size;
    }
  }
  constexpr bool in_range(int rank, Place p) const {
    return int(p.store) < store_kinds && p.index >= 0 && p.index < count_of(rank, p.store);
  }
  constexpr void read(int rank, Place p) {
    require(walkers[rank].written_by[index_of(p)] == 0, Promise::bytes_in_flight_rest, rank);
  }
  constexpr void write(int rank, Place p) {
    const Walker<Capacity>& w = walkers[rank];
    require(w.written_by[index_of(p)] == 0 && w.read_by[index_of(p)] == 0,
            Promise::bytes_in_flight_rest, rank);
  }
  constexpr bool owns(int rank, Place p) {
    return require(walkers[rank].owned[index_of(p)], Promise::buffers_have_one_owner, rank);
  }
  static constexpr Place place(Store store, int index) { return {store, std::int16_t(index)}; }

  // compute events -------------------------------------------------------------------------------

  /// The parameters of those units stand, not yet updated, where the event says.
  constexpr void read_parameters(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const StageLayout& layout = *layouts[rank];
    const int low = layout.bucket_of(e.first + e.count - 1), high = layout.bucket_of(e.first);
    if (e.from.store == Store::gathered) {
      if (!require(split.zero.stage == 3 && low == high, Promise::events_make_sense, rank)) return;
      read(rank, e.from);
      owns(rank, e.from);
      require(w.gathered[e.from.index] == low, Promise::values_are_there, rank);
      return;
    }
    if (!require(split.zero.stage < 3 && e.from.store == Store::parameters,
                 Promise::events_make_sense, rank))
      return;
    for (int b = low; b <= high; ++b) {
      read(rank, place(Store::parameters, b));
      require(w.versions[b] == Version::before_update, Promise::values_are_there, rank);
    }
  }

  constexpr void forward(int rank, const Event& e, int micro) {
    Walker<Capacity>& w = walkers[rank];
    const StageLayout& layout = *layouts[rank];
    Activations& a = w.slots[e.slot];
    if (a.micro < 0) {
      require(micro == w.begun, Promise::gradients_count_once, rank);
      if (layout.stage > 0) {
        read(rank, place(Store::stream_in, e.slot));
        require(a.received == micro, Promise::values_are_there, rank);
      }
      ++w.begun;
      a.micro = micro;
      a.forward_end = layout.first;
    }
    require(a.micro == micro && a.forward_end == e.first, Promise::values_are_there, rank);
    read_parameters(rank, e);
    a.forward_end = e.first + e.count;
    if (a.forward_end < layout.first + layout.units) return;
    a.input_begin = a.weight_begin = a.forward_end;
    if (layout.stage + 1 < split.grid.pipeline) {
      write(rank, place(Store::stream_out, e.slot));
      a.to_send = micro;
    }
  }

  constexpr void backward_input(int rank, const Event& e, int micro) {
    Walker<Capacity>& w = walkers[rank];
    const StageLayout& layout = *layouts[rank];
    Activations& a = w.slots[e.slot];
    const int end = layout.first + layout.units, buffer = micro % Split::d_stream_buffers;
    require(a.micro == micro && a.forward_end == end && a.input_begin == e.first + e.count,
            Promise::values_are_there, rank);
    if (a.input_begin == end && layout.stage + 1 < split.grid.pipeline) {
      read(rank, place(Store::d_stream_in, buffer));
      require(w.d_stream_in[buffer] == micro, Promise::values_are_there, rank);
      w.d_stream_in[buffer] = -1;
    }
    a.input_begin = e.first;
    if (e.first > layout.first || layout.stage == 0) return;
    write(rank, place(Store::d_stream_out, buffer));
    require(w.d_stream_out[buffer] < 0, Promise::values_are_there, rank);
    w.d_stream_out[buffer] = micro;
  }

  /// Adds to the gradients of whole buckets.
  constexpr void backward_weight(int rank, const Event& e, int micro) {
    Walker<Capacity>& w = walkers[rank];
    const StageLayout& layout = *layouts[rank];
    Activations& a = w.slots[e.slot];
    require(a.micro == micro && a.weight_begin == e.first + e.count && a.input_begin <= e.first,
            Promise::values_are_there, rank);
    a.weight_begin = e.first;
    const int low = layout.bucket_of(e.first + e.count - 1), high = layout.bucket_of(e.first);
    const Bucket &top = layout.buckets.rows[low], &bottom = layout.buckets.rows[high];
    const bool whole = top.first + top.units == e.first + e.count && bottom.first == e.first;
    if (!require(whole && e.to.store == (split.zero.stage < 2 ? Store::gradients : Store::reducing),
                 Promise::events_make_sense, rank))
      return;
    if (e.to.store == Store::reducing) {
      ReducingBuffer& r = w.reducing[e.to.index];
      write(rank, e.to);
      owns(rank, e.to);
      require(low == high && r.bucket == low && r.state == Reducing::cleared,
              Promise::values_are_there, rank);
      r.state = Reducing::own;
      r.micro = micro;
      return;
    }
    for (int b = low; b <= high; ++b) {
      Gradients& g = w.gradients[b];
      write(rank, place(Store::gradients, b));
      require(g.cleared && !g.reduced && g.micro_batches == micro, Promise::gradients_count_once,
              rank);
      ++g.micro_batches;
    }
  }

  constexpr void clear(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    if (e.to.store == Store::reducing) {
      write(rank, e.to);
      owns(rank, e.to);
      require(e.count == 1, Promise::events_make_sense, rank);
      w.reducing[e.to.index] = {Reducing::cleared, e.first, -1};
      return;
    }
    if (!require(e.to.store == (split.zero.stage < 2 ? Store::gradients : Store::gradient_shard),
                 Promise::events_make_sense, rank))
      return;
    for (int b = e.first; b < e.first + e.count; ++b) {
      write(rank, place(e.to.store, b));
      w.gradients[b] = {.cleared = true};
    }
  }

  constexpr void accumulate(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    if (!require(split.zero.stage >= 2 && e.from.store == Store::reducing &&
                     e.to == place(Store::gradient_shard, e.first) && e.count == 1,
                 Promise::events_make_sense, rank))
      return;
    ReducingBuffer& r = w.reducing[e.from.index];
    Gradients& g = w.gradients[e.first];
    read(rank, e.from);
    write(rank, e.to);
    owns(rank, e.from);
    require(r.state == Reducing::reduced && r.bucket == e.first, Promise::values_are_there, rank);
    require(g.cleared && g.micro_batches == r.micro, Promise::gradients_count_once, rank);
    ++g.micro_batches;
    r.state = Reducing::undefined;
  }

  /// Every bucket's sum is over all micro-batches of all data ranks, or of this one where signs or
  /// nothing is summed instead.
  constexpr void norm(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const Store store = split.zero.stage < 2 ? Store::gradients : Store::gradient_shard;
    if (!require(e.first == 0 && e.count == layouts[rank]->buckets.size &&
                     e.from == place(store, 0) && e.to == place(Store::norms, 0),
                 Promise::events_make_sense, rank))
      return;
    write(rank, e.to);
    for (int b = 0; b < e.count; ++b) {
      const Gradients& g = w.gradients[b];
      read(rank, place(store, b));
      require(g.micro_batches == split.micro_batches &&
                  (g.reduced || split.grid.data == 1 || split.zero.stage >= 2 ||
                   (split.sums != Sums::gradients && split.zero.stage == 0)) &&
                  (g.norms_summed || !sums_norms(rank, b) || split.zero.stage >= 2),
              Promise::gradients_count_once, rank);
    }
    require(w.norm == Norm::none, Promise::events_make_sense, rank);
    w.norm = Norm::own_part;
  }

  /// Signs of all gradients once all ranks know whether there is an update, or of what was gathered
  /// in steps that had one; means of all signs.
  constexpr void signs(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const bool compresses = e.work == Work::compress;
    const int n = layouts[rank]->buckets.size;
    const Place gathered = split.only_syncs ? Place{} : place(Store::gradients, 0);
    if (!require(split.sums == Sums::signs && e.first == 0 && e.count == n &&
                     e.from == (compresses ? gathered : place(Store::signs, 0)) &&
                     e.to == place(compresses ? Store::signs : Store::means, 0),
                 Promise::events_make_sense, rank))
      return;
    for (int b = 0; b < (compresses ? n : 1); ++b) read(rank, place(e.from.store, b));
    read(rank, place(Store::norms, 0));
    write(rank, e.to);
    require(is_decided(w) && w.signs == (compresses ? Signs::none : Signs::received),
            Promise::values_are_there, rank);
    w.signs = compresses ? Signs::own : Signs::served;
  }

  /// Whether this rank knows that there is an update.
  constexpr bool is_decided(const Walker<Capacity>& w) const {
    return split.only_syncs || w.norm == (split.gathers_norm() ? Norm::all : Norm::own_part);
  }

  constexpr void update(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const int stage = split.zero.stage;
    const Place from = split.only_syncs
                           ? place(Store::means, 0)
                           : place(stage < 2 ? Store::gradients : Store::gradient_shard, e.first);
    if (split.sums == Sums::signs) {
      read(rank, place(Store::means, 0));
      require(w.signs == Signs::all, Promise::gradients_count_once, rank);
    }
    if (!require(e.from == from &&
                     e.to == place(stage < 3 ? Store::parameters : Store::parameter_shard, e.first),
                 Promise::events_make_sense, rank))
      return;
    read(rank, place(Store::norms, 0));
    require(is_decided(w), Promise::values_are_there, rank);
    for (int b = e.first; b < e.first + e.count; ++b) {
      if (!split.only_syncs) read(rank, place(e.from.store, b));
      write(rank, place(e.to.store, b));
      require(w.versions[b] == Version::before_update, Promise::values_are_there, rank);
      w.versions[b] = stage == 1 || stage == 2 ? Version::own_shard_updated : Version::updated;
    }
  }

  constexpr void compute(int rank, const Event& e) {
    const StageLayout& layout = *layouts[rank];
    const int micro = e.micro + walkers[rank].iteration;
    if (e.work >= Work::clear) {
      if (!require(e.first >= 0 && e.count >= 1 && e.first + e.count <= layout.buckets.size,
                   Promise::events_make_sense, rank))
        return;
      if (e.work == Work::clear) return clear(rank, e);
      if (e.work == Work::accumulate) return accumulate(rank, e);
      if (e.work == Work::compress || e.work == Work::serve) return signs(rank, e);
      return e.work == Work::norm ? norm(rank, e) : update(rank, e);
    }
    const bool exists = e.first >= layout.first && e.count >= 1 &&
                        e.first + e.count <= layout.first + layout.units && e.slot >= 0 &&
                        e.slot < count_of(rank, Store::activations);
    if (!require(exists, Promise::events_make_sense, rank)) return;
    const Place activations = place(Store::activations, e.slot);
    write(rank, activations);
    if (!owns(rank, activations)) return;
    if (e.work == Work::forward) return forward(rank, e, micro);
    if (layout.stage > 0) read(rank, place(Store::stream_in, e.slot));
    if (e.work != Work::backward_weight) {
      read_parameters(rank, e);
      backward_input(rank, e, micro);
    }
    if (e.work != Work::backward_input) backward_weight(rank, e, micro);
  }

  // transfers ------------------------------------------------------------------------------------

  constexpr void start_collective(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const StageLayout& layout = *layouts[rank];
    const int stage = split.zero.stage, b = e.first;
    if (!require(b >= 0 && b < layout.buckets.size, Promise::events_make_sense, rank)) return;
    if (e.from.store == Store::norms) {
      require(e.collective == Collective::all_gather && e.to == e.from && split.gathers_norm() &&
                  e.group == Group::world,
              Promise::events_make_sense, rank);
      require(e.size == Split::record * split.grid.ranks(), Promise::payloads_are_whole, rank);
      require(w.norm == Norm::own_part, Promise::values_are_there, rank);
      return;
    }
    if (e.group == Group::tensor) return start_norm_sum(rank, e);
    if (e.from.store == Store::signs || e.from.store == Store::means) return start_signs(rank, e);
    const bool reduces = e.collective != Collective::all_gather;
    const bytes element = reduces ? split.size.gradient : split.size.parameter;
    require(e.group == Group::data && split.grid.data > 1, Promise::events_make_sense, rank);
    require(e.size == layout.buckets.rows[b].elements * element, Promise::payloads_are_whole, rank);
    if (e.from.store == Store::gradients) {
      const Gradients& g = w.gradients[b];
      require(
          e.from == place(Store::gradients, b) && e.to == e.from && stage < 2 &&
              e.collective == (stage == 0 ? Collective::all_reduce : Collective::reduce_scatter),
          Promise::events_make_sense, rank);
      require(g.micro_batches == split.micro_batches && !g.reduced &&
                  g.norms_summed == sums_norms(rank, b),
              Promise::gradients_count_once, rank);
    } else if (e.from.store == Store::reducing) {
      const ReducingBuffer& r = w.reducing[e.from.index];
      require(e.to == e.from && e.collective == Collective::reduce_scatter,
              Promise::events_make_sense, rank);
      owns(rank, e.from);
      require(r.state == Reducing::own && r.bucket == b, Promise::values_are_there, rank);
      require(r.norms_summed == sums_norms(rank, b), Promise::gradients_count_once, rank);
    } else if (e.from == place(Store::parameters, b)) {
      require(e.to == e.from && e.collective == Collective::all_gather && stage >= 1 && stage <= 2,
              Promise::events_make_sense, rank);
      require(w.versions[b] == Version::own_shard_updated, Promise::values_are_there, rank);
    } else {
      require(e.from == place(Store::parameter_shard, b) && e.to.store == Store::gathered &&
                  e.collective == Collective::all_gather && stage == 3,
              Promise::events_make_sense, rank);
      owns(rank, e.to);
      require(w.versions[b] == Version::before_update, Promise::values_are_there, rank);
    }
  }
  /// Signs go to their servers, and means from there to all.
  constexpr void start_signs(int rank, const Event& e) {
    const bool means = e.from.store == Store::means;
    require(e.to == e.from && e.group == Group::data && split.sums == Sums::signs &&
                e.collective == (means ? Collective::all_gather : Collective::all_to_all),
            Promise::events_make_sense, rank);
    require(e.size == (means ? 1 : 2) * split.grid.data * split.sign_message,
            Promise::payloads_are_whole, rank);
    require(walkers[rank].signs == (means ? Signs::served : Signs::own), Promise::values_are_there,
            rank);
  }
  constexpr bool sums_norms(int rank, int b) const {
    return split.norms_to_sum(layouts[rank]->buckets.rows[b]) > 0;
  }
  /// Parts of norms' gradients, each tensor rank's once, before anything else is done with them.
  constexpr void start_norm_sum(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const bool whole = e.from.store == Store::gradients;
    if (!require(sums_norms(rank, e.first) && e.collective == Collective::all_reduce &&
                     e.to == e.from &&
                     (whole ? e.from == place(Store::gradients, e.first) && split.zero.stage < 2
                            : e.from.store == Store::reducing),
                 Promise::events_make_sense, rank))
      return;
    require(e.size == split.norms_to_sum(layouts[rank]->buckets.rows[e.first]),
            Promise::payloads_are_whole, rank);
    if (whole) {
      const Gradients& g = w.gradients[e.first];
      require(g.micro_batches == split.micro_batches && !g.reduced && !g.norms_summed,
              Promise::gradients_count_once, rank);
    } else {
      const ReducingBuffer& r = w.reducing[e.from.index];
      owns(rank, e.from);
      require(r.state == Reducing::own && r.bucket == e.first && !r.norms_summed,
              Promise::gradients_count_once, rank);
    }
  }
  constexpr void end_collective(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    if (e.group == Group::tensor && e.from.store == Store::gradients)
      w.gradients[e.first].norms_summed = true;
    if (e.group == Group::tensor && e.from.store == Store::reducing)
      w.reducing[e.from.index].norms_summed = true;
    if (e.group == Group::tensor) return;
    if (e.from.store == Store::norms) w.norm = Norm::all;
    if (e.from.store == Store::signs) w.signs = Signs::received;
    if (e.from.store == Store::means) w.signs = Signs::all;
    if (e.from.store == Store::gradients) w.gradients[e.first].reduced = true;
    if (e.from.store == Store::reducing) w.reducing[e.from.index].state = Reducing::reduced;
    if (e.from.store == Store::parameters) w.versions[e.first] = Version::updated;
    if (e.from.store == Store::parameter_shard) w.gathered[e.to.index] = e.first;
  }

  constexpr void start_send(int rank, const Event& e, int micro) {
    Walker<Capacity>& w = walkers[rank];
    const int stage = layouts[rank]->stage;
    const bool up = e.from.store == Store::stream_out;
    if (!require((up || e.from.store == Store::d_stream_out) && e.to == Place{} &&
                     e.peer == (up ? stage + 1 : stage - 1) && e.peer >= 0 &&
                     e.peer < split.grid.pipeline,
                 Promise::events_make_sense, rank))
      return;
    int& content = up ? w.slots[e.from.index].to_send : w.d_stream_out[e.from.index];
    if (up) owns(rank, place(Store::activations, e.from.index));
    require(content == micro, Promise::values_are_there, rank);
    require(e.size == split.stream, Promise::payloads_are_whole, rank);
    content = -1;
  }
  constexpr void start_receive(int rank, const Event& e, int micro) {
    Walker<Capacity>& w = walkers[rank];
    const int stage = layouts[rank]->stage;
    const bool up = e.to.store == Store::stream_in;
    if (!require((up || e.to.store == Store::d_stream_in) && e.from == Place{} &&
                     e.peer == (up ? stage - 1 : stage + 1) && e.peer >= 0 &&
                     e.peer < split.grid.pipeline,
                 Promise::events_make_sense, rank))
      return;
    require(e.size == split.stream, Promise::payloads_are_whole, rank);
    if (up) {
      owns(rank, place(Store::activations, e.to.index));
      require(w.slots[e.to.index].micro < 0 && w.slots[e.to.index].received < 0,
              Promise::values_are_there, rank);
    } else {
      require(w.d_stream_in[e.to.index] < 0 && e.to.index == micro % Split::d_stream_buffers,
              Promise::values_are_there, rank);
    }
  }
  constexpr void end_receive(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const int micro = e.micro + w.iteration;
    if (e.to.store == Store::stream_in) w.slots[e.to.index].received = micro;
    if (e.to.store == Store::d_stream_in) w.d_stream_in[e.to.index] = micro;
  }

  static constexpr int lane_of(const Event& e) {
    if (e.kind == EventKind::compute) return group_lanes + int(Group::tensor);
    if (e.kind == EventKind::collective) return group_lanes + int(e.group);
    if (e.kind == EventKind::send) return e.from.store == Store::stream_out ? to_next : to_previous;
    return e.to.store == Store::stream_in ? from_previous : from_next;
  }
  constexpr bool is_on_a_lane(const Event& e) const {
    return e.starts_transfer() ||
           (e.kind == EventKind::compute && walked.tensor > 1 && is_joint(e.work));
  }

  /// The other members of the transfer that `rank` has at the head of `lane`.
  constexpr int members(int lane) const { return lane < to_next ? walked.size(Group(lane)) : 2; }
  constexpr int member(int rank, int lane, int i) const {
    Coordinates c = walked.at(rank);
    if (lane < to_next) return walked.member(Group(lane), c, i);
    if (i == 1) c.pipeline += lane == to_next || lane == from_next ? 1 : -1;
    return walked.rank(c);
  }
  /// The lane on which member i stands: a send of one is a receive of the other.
  static constexpr int lane_of_member(int lane, int i) {
    if (lane < to_next || i == 0) return lane;
    return lane == to_next       ? from_previous
           : lane == from_next   ? to_previous
           : lane == to_previous ? from_next
                                 : to_next;
  }

  /// Both describe the same transfer.
  constexpr bool agree(const Event& a, int a_micro, const Event& b, int b_micro) const {
    if (a.kind == EventKind::compute || b.kind == EventKind::compute)
      return a.kind == b.kind && a.work == b.work && a.first == b.first && a.count == b.count &&
             a_micro == b_micro;
    if (a.kind != EventKind::collective)
      return b.kind != EventKind::collective && a.size == b.size && a_micro == b_micro;
    return b.kind == a.kind && a.collective == b.collective && a.size == b.size &&
           a.first == b.first && a.from.store == b.from.store && a.to.store == b.to.store;
  }

  /// Ends transfers at the head of the lane for as long as all members are there.
  constexpr void end_transfers(int rank, int lane) {
    while (ok()) {
      const int first = walkers[rank].head[lane];
      if (first < 0) return;
      const int n = members(lane);
      for (int i = 0; i < n; ++i)
        if (walkers[member(rank, lane, i)].head[lane_of_member(lane, i)] < 0) return;
      for (int i = 0; i < n; ++i) {
        const int other = member(rank, lane, i), other_lane = lane_of_member(lane, i);
        Walker<Capacity>& w = walkers[other];
        const int index = w.head[other_lane];
        const Event &mine = event(rank, first), &theirs = event(other, index);
        if (!agree(mine, mine.micro + walkers[rank].iteration, theirs,
                   theirs.micro + w.iteration)) {
          verdict = {Promise::peers_agree, other, index};
          return;
        }
      }
      for (int i = 0; i < n; ++i) {
        const int other = member(rank, lane, i), other_lane = lane_of_member(lane, i);
        Walker<Capacity>& w = walkers[other];
        const int index = w.head[other_lane];
        const Event& e = event(other, index);
        w.progress[index] = Progress::ended;
        if (e.kind == EventKind::collective) end_collective(other, e);
        if (e.kind == EventKind::receive) end_receive(other, e);
        w.head[other_lane] = index == w.tail[other_lane] ? -1 : w.next_on_lane[index];
      }
    }
  }

  constexpr void enter_lane(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const int lane = lane_of(e);
    w.progress[w.position] = Progress::started;
    if (w.head[lane] < 0)
      w.head[lane] = w.position;
    else
      w.next_on_lane[w.tail[lane]] = std::int16_t(w.position);
    w.tail[lane] = w.position;
    end_transfers(rank, lane);
  }

  constexpr void start(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const int micro = e.micro + w.iteration;
    if (e.from.store != Store::nothing) e.from == e.to ? write(rank, e.from) : read(rank, e.from);
    if (e.to.store != Store::nothing) write(rank, e.to);
    if (e.kind == EventKind::collective) start_collective(rank, e);
    if (e.kind == EventKind::send) start_send(rank, e, micro);
    if (e.kind == EventKind::receive) start_receive(rank, e, micro);
    if (!ok()) return;
    if (e.from.store != Store::nothing) ++w.read_by[index_of(e.from)];
    if (e.to.store != Store::nothing) ++w.written_by[index_of(e.to)];
    ++w.in_flight;
    enter_lane(rank, e);
  }

  // waits and buffers ----------------------------------------------------------------------------

  /// False where the rank has to stay.
  constexpr bool wait(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const Section& section = tables[rank]->sections.rows[w.section];
    const bool exists = e.awaited >= section.first && e.awaited < w.position &&
                        event(rank, e.awaited).starts_transfer();
    if (!require(exists && w.progress[e.awaited] != Progress::idle, Promise::events_make_sense,
                 rank) ||
        w.progress[e.awaited] == Progress::started)
      return false;
    const Event& ended = event(rank, e.awaited);
    w.progress[e.awaited] = Progress::idle;
    if (ended.from.store != Store::nothing) --w.read_by[index_of(ended.from)];
    if (ended.to.store != Store::nothing) --w.written_by[index_of(ended.to)];
    --w.in_flight;
    return true;
  }

  constexpr void acquire(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    const Store store = e.to.store;
    if (!require(
            store == Store::gathered || store == Store::reducing || store == Store::activations,
            Promise::events_make_sense, rank))
      return;
    write(rank, e.to);
    if (!require(!w.owned[index_of(e.to)], Promise::buffers_have_one_owner, rank)) return;
    w.owned[index_of(e.to)] = true;
    ++w.owned_buffers;
    if (store == Store::gathered) w.gathered[e.to.index] = -1;
    if (store == Store::reducing) w.reducing[e.to.index] = {};
    if (store == Store::activations) w.slots[e.to.index] = {};
  }
  constexpr void release(int rank, const Event& e) {
    Walker<Capacity>& w = walkers[rank];
    if (!owns(rank, e.to)) return;
    write(rank, e.to);
    w.owned[index_of(e.to)] = false;
    --w.owned_buffers;
    if (e.to.store == Store::reducing)
      require(w.reducing[e.to.index].state == Reducing::undefined, Promise::gradients_count_once,
              rank);
    if (e.to.store != Store::activations) return;
    const Activations& a = w.slots[e.to.index];
    const StageLayout& layout = *layouts[rank];
    require(a.micro >= 0 && a.to_send < 0 &&
                (split.trains ? a.weight_begin == layout.first
                              : a.forward_end == layout.first + layout.units),
            Promise::gradients_count_once, rank);
    write(rank, place(Store::stream_out, e.to.index));
  }

  // the walk -------------------------------------------------------------------------------------

  /// One event; false where the rank has to stay.
  constexpr bool take(int rank) {
    Walker<Capacity>& w = walkers[rank];
    const Event& e = event(rank, w.position);
    if (e.kind == EventKind::wait) return wait(rank, e);
    if (e.kind == EventKind::compute && w.progress[w.position] != Progress::idle) {
      if (w.progress[w.position] == Progress::started) return false;
      w.progress[w.position] = Progress::idle;
      return true;
    }
    if (!require(in_range(rank, e.from) && in_range(rank, e.to), Promise::events_make_sense, rank))
      return false;
    if (e.kind == EventKind::acquire) acquire(rank, e);
    if (e.kind == EventKind::release) release(rank, e);
    if (e.starts_transfer()) start(rank, e);
    if (e.kind != EventKind::compute) return ok();
    compute(rank, e);
    if (!ok() || !is_on_a_lane(e)) return ok();
    enter_lane(rank, e);
    return take(rank);
  }

  /// Iterations of a section are alike: each adds one micro-batch and leaves all else as it was.
  /// Where one rank walks alone, the second one therefore stands for all that follow.
  constexpr void skip_equal_iterations(int rank, const Section& section) {
    Walker<Capacity>& w = walkers[rank];
    const int skipped = section.repeats - w.iteration;
    if (Ranks > 1 || w.iteration != 2 || skipped <= 0) return;
    require(w.norm == Norm::none && w.begun == 2, Promise::gradients_count_once, rank);
    w.begun += skipped;
    for (int b = 0; b < layouts[rank]->buckets.size; ++b) {
      require(w.versions[b] == Version::before_update && w.gradients[b].micro_batches == 2 &&
                  !w.gradients[b].reduced,
              Promise::gradients_count_once, rank);
      w.gradients[b].micro_batches += skipped;
    }
    w.iteration = section.repeats;
  }

  constexpr void end_section(int rank) {
    Walker<Capacity>& w = walkers[rank];
    const Table& table = *tables[rank];
    const Section& section = table.sections.rows[w.section];
    require(w.in_flight == 0, Promise::every_transfer_ends, rank);
    require(w.owned_buffers == 0, Promise::buffers_have_one_owner, rank);
    ++w.iteration;
    skip_equal_iterations(rank, section);
    if (w.iteration >= section.repeats) {
      w.iteration = 0;
      ++w.section;
    }
    w.at_end = w.section == table.sections.size;
    if (!w.at_end) w.position = table.sections.rows[w.section].first;
  }

  constexpr bool advance(int rank) {
    Walker<Capacity>& w = walkers[rank];
    bool moved = false;
    while (ok() && !w.at_end && take(rank)) {
      moved = true;
      const Section& section = tables[rank]->sections.rows[w.section];
      if (++w.position == section.first + section.size) end_section(rank);
    }
    return moved;
  }

  constexpr void check_sections(int rank) {
    const Table& table = *tables[rank];
    int at = 0;
    for (int i = 0; i < table.sections.size; ++i) {
      const Section& s = table.sections.rows[i];
      require(s.first == at && s.size > 0 && s.repeats > 0, Promise::events_make_sense, rank);
      at += s.size;
    }
    require(at == table.events.size && at > 0, Promise::events_make_sense, rank);
  }

  constexpr void check_end(int rank) {
    const Walker<Capacity>& w = walkers[rank];
    require(w.at_end, Promise::every_transfer_ends, rank);
    require(w.begun == split.micro_batches, Promise::the_step_is_complete, rank);
    for (int b = 0; b < layouts[rank]->buckets.size; ++b)
      require(w.versions[b] == (split.trains ? Version::updated : Version::before_update),
              Promise::the_step_is_complete, rank);
  }

  constexpr Verdict run() {
    for (int rank = 0; rank < Ranks; ++rank) check_sections(rank);
    for (bool moved = true; moved && ok();) {
      moved = false;
      for (int rank = 0; rank < Ranks && ok(); ++rank) moved = advance(rank) || moved;
    }
    for (int rank = 0; rank < Ranks && ok(); ++rank) check_end(rank);
    return verdict;
  }
};

}  // namespace proof

// functions --------------------------------------------------------------------------------------

/// The verdict on one table per rank, which need not be alike.
template <int Ranks, int Capacity>
constexpr Verdict prove_tables(const Split& split, const Grid& walked,
                               const StageLayout* const (&layouts)[Ranks],
                               const StageTable<Capacity>* const (&tables)[Ranks]) {
  proof::Walk<Ranks, Capacity> walk{split, walked};
  for (int rank = 0; rank < Ranks; ++rank) {
    walk.layouts[rank] = layouts[rank];
    walk.tables[rank] = tables[rank];
  }
  return walk.run();
}

/// The verdict on a schedule. One rank of each stage stands for all: the ranks of a data or tensor
/// group walk the same table, so they are always at the same event or on their way to it, agree on
/// every collective, and see the same in their own memory.
template <int Stages, int Capacity> constexpr Verdict prove(const Schedule<Stages, Capacity>& s) {
  const StageLayout* layouts[Stages]{};
  const StageTable<Capacity>* tables[Stages]{};
  for (int stage = 0; stage < Stages; ++stage) {
    layouts[stage] = &s.layouts[stage];
    tables[stage] = &s.tables[stage];
  }
  return prove_tables(s.split, Grid{1, 1, s.split.grid.pipeline}, layouts, tables);
}

/// Bytes that one rank of a stage sends in a step, lowered or not.
template <int Stages, int Capacity>
constexpr bytes bytes_sent(const Schedule<Stages, Capacity>& s, int stage) {
  bytes sum = 0;
  for (const Section& section : s.tables[stage].sections)
    for (int i = section.first; i < section.first + section.size; ++i) {
      const Event& e = s.tables[stage].events.rows[i];
      if (e.kind == EventKind::send) sum += e.size * section.repeats;
      if (e.kind == EventKind::collective)
        sum += bytes_sent(e.collective, s.split.grid.size(e.group), e.size) * section.repeats;
    }
  return sum;
}

/// What it must send at least, given what ZeRO leaves where (arXiv 1910.02054, section 7): sums of
/// gradients and updated parameters once a step; in stage 2 gradients, and in stage 3 both and
/// parameters twice, once a micro-batch; the streams between stages; with sequence parallelism the
/// norms' gradients; each rank's record. Where signs are summed, those and their means instead of
/// gradients; where nothing is, the records alone. An evaluation: streams and, in stage 3,
/// parameters once. What tensor ranks exchange within blocks is counted by tensor.hpp.
constexpr bytes least_bytes_sent(const Split& split, const StageLayout& layout) {
  const int n = split.grid.data, m = split.micro_batches;
  const bytes shard = layout.elements() / n * (n - 1);
  const bytes gradients = shard * split.size.gradient, parameters = shard * split.size.parameter;
  const int neighbours = (layout.stage > 0) + (layout.stage + 1 < split.grid.pipeline);
  bytes sum = neighbours * m * split.stream;
  for (int b = 0; b < layout.buckets.size; ++b)
    sum += (split.zero.stage >= 2 ? m : 1) * bytes_sent(Collective::all_reduce, split.grid.tensor,
                                                        split.norms_to_sum(layout.buckets.rows[b]));
  if (!split.trains)
    return (layout.stage + 1 < split.grid.pipeline ? split.stream : 0) +
           (split.zero.stage == 3 ? parameters : 0);
  if (split.only_syncs) return 2 * (n - 1) * split.sign_message;
  if (split.gathers_norm()) sum += Split::record * (split.grid.ranks() - 1);
  if (split.sums == Sums::signs) return sum + 2 * (n - 1) * split.sign_message;
  if (split.sums == Sums::nothing) return sum;
  switch (split.zero.stage) {
    case 0:
      return sum + 2 * gradients;
    case 1:
      return sum + gradients + parameters;
    case 2:
      return sum + m * gradients + parameters;
    default:
      return sum + m * (gradients + 2 * parameters);
  }
}

template <int Stages, int Capacity>
constexpr bool bytes_sent_are_least(const Schedule<Stages, Capacity>& s) {
  for (int stage = 0; stage < Stages; ++stage)
    if (bytes_sent(s, stage) != least_bytes_sent(s.split, s.layouts[stage])) return false;
  return true;
}

}  // namespace ctrain
