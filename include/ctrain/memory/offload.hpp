/// \file  What streams through a device, in which pieces, and every byte it takes where.   floor 3: memory
#pragma once

#include <ctrain/memory/plan.hpp>
#include <ctrain/memory/proof.hpp>
#include <ctrain/memory/split.hpp>
#include <ctrain/model/backward.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// A piece's states beside each other, as on disk and in a staging slot: weights, moments,
/// gradients, each from a multiple of a disk's block on; what stands elsewhere takes no room here.
struct PieceRecord {
  static constexpr bytes block = 4096;
  bytes weights = 0, first_moment = 0, second_moment = 0, gradients = 0;  // sizes

  constexpr bytes first_moment_at() const { return weights; }
  constexpr bytes second_moment_at() const { return weights + first_moment; }
  constexpr bytes states() const { return weights + first_moment + second_moment; }
  constexpr bytes size() const { return states() + gradients; }
};

/// Consecutive parameters whose states travel together: a stretch of the flat vector. The host
/// works on them in pieces of `piece` elements, the last one smaller.
struct StreamUnit {
  Segment segment = Segment::embedding;
  int first = 0, count = 0;   // rows of the parameter table
  std::int64_t start = 0;     // elements from the start of its segment (of one block)
  std::int64_t elements = 0;  // with alignment
  bytes on_device = 0;        // weights as the device reads them
  bytes gradient = 0;
  std::int64_t piece = 0;
  int pieces = 0;
  PieceRecord record{};

  constexpr std::int64_t elements_of(int i) const {
    return (i + 1) * piece < elements ? piece : elements - i * piece;
  }
};

/// The units of a model: the word table, of which only the rows of a batch ever reach the device;
/// the other tables of the embedding; each block, whole or in stretches that end with a matrix; the
/// head.
struct StreamUnits {
  Table<StreamUnit, 12> kinds;
  int stretches = 1, layers = 1;
  int most_pieces = 0;  // of a unit

  static constexpr int word_table = 0, tables = 1;
  constexpr int count() const { return 3 + stretches * layers; }
  constexpr int head() const { return count() - 1; }
  constexpr int block(int layer, int stretch) const { return 2 + layer * stretches + stretch; }
  constexpr int kind(int unit) const {
    if (unit < 2) return unit;
    return unit == head() ? kinds.size - 1 : 2 + (unit - 2) % stretches;
  }
  constexpr int layer(int unit) const {
    return unit < 2 || unit == head() ? 0 : (unit - 2) / stretches;
  }
  constexpr const StreamUnit& of(int unit) const { return kinds.rows[kind(unit)]; }
  /// The kind of unit that holds a row of the parameter table.
  constexpr int kind_of_parameter(int row) const {
    int kind = 0;
    while (row < kinds.rows[kind].first || row >= kinds.rows[kind].first + kinds.rows[kind].count)
      ++kind;
    return kind;
  }
};

/// Where each state of a policy stands between its uses: the device's own is none of them.
struct Homes {
  OffloadTo weights = OffloadTo::host;  // that the update works on
  OffloadTo moments = OffloadTo::host;
  OffloadTo gradients = OffloadTo::host;
  bool weights_stay_on_device = false;  // as a copy, renewed after each update
};

/// Every byte of a streamed step. Regions of the device are offsets in its arena, those of the host
/// in another one, those of the disk in a file.
struct StreamPlan {
  // device
  Region weights;      // buffers of one unit each, or all units but the word table
  Region gradients;    // buffers of one unit each, with as many partial sums as a step keeps
  Region word_rows;    // rows of the word table that a step reads, and
  Region d_word_rows;  // their gradients
  Region batch;        // of each micro-batch
  Region streams;      // of each micro-batch between two units: rows or their gradients
  Region embedding;    // what the embedding keeps for its backward, of each micro-batch
  Region device_kept;  // what blocks keep, where activations stay
  Region working;      // activations of the unit at work
  bytes weight_buffer = 0, gradient_buffer = 0, stream = 0, embedding_slot = 0;
  bytes gradient_sum = 0;  // of a gradient buffer
  bytes region = 0;        // one working region
  bytes slot = 0;          // what a block keeps of a micro-batch
  bytes slot_in_region = 0;
  int weight_buffers = 0, gradient_buffers = 0, regions = 0, kept_slots = 0;
  // host
  Region staging;           // slots in which pieces come from disk, are updated and go back
  Region gradient_staging;  // slots in which gradients wait for the disk
  Region host_weights, host_moments, host_gradients;
  Region host_kept;  // activations, or slots in which they wait for the disk
  Region host_word_rows, host_d_word_rows;
  Region word_gradient;  // of one piece of the word table
  bytes staging_slot = 0, gradient_slot = 0;
  int staging_slots = 0, gradient_slots = 0, host_kept_slots = 0;
  // disk
  Region disk_states, disk_kept;
  bytes runtime = 0;       // what the device's runtime takes, outside the arena
  MemoryPlan one_layer{};  // the step of one block, which places the activations in a region

  constexpr bytes device() const { return working.end(); }
  constexpr bytes host() const { return word_gradient.end(); }
  constexpr bytes disk() const { return disk_kept.end(); }
};

// functions --------------------------------------------------------------------------------------

constexpr Homes homes_of(const Policy& p) {
  const Offload& o = p.offload;
  const bool stays = o.parameters == OffloadTo::none;
  return {.weights = stays ? o.optimizer : o.parameters,
          .moments = o.optimizer,
          .gradients = o.gradients == OffloadTo::none ? o.optimizer : o.gradients,
          .weights_stay_on_device = stays};
}

/// Bytes of a parameter's weights where the device reads them: a GPU's matrices in its compute
/// type.
constexpr bytes device_bytes(const Parameter& parameter, const Policy& p) {
  const bool narrow =
      p.device.kind == DeviceKind::cuda && parameter.segment == Segment::block && !parameter.vector;
  return round_up(parameter.elements() * (narrow ? size_of(p.compute_type()) : 4),
                  tensor_alignment);
}

/// Bytes from the start of a unit's gradient to that of its `element`-th weight.
constexpr bytes gradient_at(const ParameterTable& t, const Policy& p, const StreamUnit& u,
                            std::int64_t element) {
  bytes at = 0;
  for (int i = u.first; i < u.first + u.count; ++i) {
    const Parameter& row = t.rows.rows[i];
    const std::int64_t all = round_up(row.elements(), 16);
    const bytes size = size_of(gradient_type(row, p));
    if (element < all) return at + element * size;
    element -= all;
    at += round_up(row.elements() * size, tensor_alignment);
  }
  return at;
}
/// The stretch of a unit's gradient that belongs to a piece.
constexpr Region gradient_of_piece(const ParameterTable& t, const Policy& p, const StreamUnit& u,
                                   int piece) {
  const bytes from = gradient_at(t, p, u, piece * u.piece),
              to = gradient_at(t, p, u, piece * u.piece + u.elements_of(piece));
  return {from, to - from};
}

/// Calls f(row, first element of the tensor, first element of the piece, elements) for the part of
/// each parameter that lies in a piece of a unit.
template <class F>
constexpr void each_part(const ParameterTable& t, const StreamUnit& u, int piece, F&& f) {
  const std::int64_t begin = piece * u.piece, end = begin + u.elements_of(piece);
  for (int row = u.first; row < u.first + u.count; ++row) {
    const Parameter& p = t.rows.rows[row];
    const std::int64_t at = p.offset - u.start, from = at < begin ? begin : at,
                       to = at + p.elements() < end ? at + p.elements() : end;
    if (from < to) f(row, from - at, from - begin, to - from);
  }
}

/// What a piece of that unit has on disk and in a staging slot. The word table's gradients are
/// those of few rows, and wait on the host.
constexpr PieceRecord record_of(const ParameterTable& t, const Policy& p, const StreamUnit& u) {
  const Homes homes = homes_of(p);
  const bytes state = round_up(4 * u.piece, PieceRecord::block);
  PieceRecord r;
  if (homes.weights == OffloadTo::disk) r.weights = state;
  if (homes.moments == OffloadTo::disk) r.first_moment = r.second_moment = state;
  if (homes.gradients == OffloadTo::disk && u.first > 0)
    for (int i = 0; i < u.pieces; ++i) {
      const bytes size = round_up(gradient_of_piece(t, p, u, i).size, PieceRecord::block);
      if (size > r.gradients) r.gradients = size;
    }
  return r;
}

namespace offload {

/// A unit of `count` parameters from row `first` on.
constexpr StreamUnit unit(const ParameterTable& t, const Policy& p, int first, int count,
                          std::int64_t whole) {
  StreamUnit u{.segment = t.rows.rows[first].segment,
               .first = first,
               .count = count,
               .start = t.rows.rows[first].offset};
  for (int i = first; i < first + count; ++i) {
    const Parameter& row = t.rows.rows[i];
    u.elements += round_up(row.elements(), 16);
    u.on_device += device_bytes(row, p);
    u.gradient += round_up(row.elements() * size_of(gradient_type(row, p)), tensor_alignment);
  }
  const std::int64_t fewest = (4 * u.elements + p.offload.piece - 1) / p.offload.piece;
  u.piece = round_up((u.elements + fewest - 1) / fewest, whole);
  u.pieces = int((u.elements + u.piece - 1) / u.piece);
  u.record = record_of(t, p, u);
  return u;
}

/// Rows after which a stretch of a block ends: the biases of its linear ops.
constexpr Table<int, 8> ends_of_stretches(const Graph& g, const Policy& p) {
  Table<int, 8> ends;
  int last = 0;
  for (int i = 0; i < g.parameters.rows.size; ++i)
    if (g.parameters.rows.rows[i].segment == Segment::block) last = i + 1;
  if (p.offload.unit == StreamBy::matrix)
    for (const Op& op : g.forward_block.ops)
      if (op.kind == OpKind::linear)
        ends.add(op.bias + op.out / g.parameters.rows.rows[op.bias].cols);
  if (ends.size == 0) ends.add(last);
  ends.rows[ends.size - 1] = last;
  return ends;
}

}  // namespace offload

constexpr StreamUnits stream_units(const Graph& g, const Policy& p) {
  const ParameterTable& t = g.parameters;
  constexpr std::int64_t whole_blocks = PieceRecord::block / 4;
  StreamUnits units;
  units.layers = p.model.layers;
  units.kinds.add(offload::unit(t, p, 0, 1, p.model.hidden));
  int row = 1;
  while (t.rows.rows[row].segment == Segment::embedding) ++row;
  units.kinds.add(offload::unit(t, p, 1, row - 1, whole_blocks));
  const Table<int, 8> ends = offload::ends_of_stretches(g, p);
  for (int i = 0; i < ends.size; ++i) {
    units.kinds.add(offload::unit(t, p, row, ends.rows[i] - row, whole_blocks));
    row = ends.rows[i];
  }
  units.stretches = ends.size;
  units.kinds.add(offload::unit(t, p, row, t.rows.size - row, whole_blocks));
  for (const StreamUnit& u : units.kinds)
    if (u.pieces > units.most_pieces) units.most_pieces = u.pieces;
  return units;
}

/// First element of a unit in the flat vector.
constexpr std::int64_t start_of(const ParameterTable& t, const StreamUnits& units, int unit) {
  const StreamUnit& u = units.of(unit);
  if (u.segment == Segment::embedding) return u.start;
  return t.block_start(u.segment == Segment::head ? t.layers : units.layer(unit)) + u.start;
}

/// Rows of the word table that a step can read: those of its tokens, and the padding row.
constexpr int most_word_rows(const Policy& p) {
  const std::int64_t tokens = std::int64_t{p.batch.rows()} * p.batch.accumulation + 1;
  return tokens < p.model.vocabulary ? int(tokens) : p.model.vocabulary;
}

/// The policy of which one block is planned: what streams is at work alone.
constexpr Policy one_layer_of(Policy p) {
  p.model.layers = 1;
  return p;
}

namespace offload {

constexpr void place_on_device(const Graph& g, const StreamUnits& units, const Policy& p,
                               StreamPlan& m) {
  const Offload& o = p.offload;
  const int micros = p.batch.accumulation, sums = split_of(p).partial_sums();
  bytes all = 0;
  for (int i = 0; i < units.kinds.size; ++i) {
    const StreamUnit& u = units.kinds.rows[i];
    if (i == StreamUnits::word_table) continue;
    all += u.on_device * (u.segment == Segment::block ? units.layers : 1);
    if (u.on_device > m.weight_buffer) m.weight_buffer = u.on_device;
    if (u.gradient > m.gradient_sum) m.gradient_sum = u.gradient;
  }
  m.weight_buffers = homes_of(p).weights_stay_on_device ? units.count() : o.buffers;
  m.gradient_buffers = o.buffers;
  m.gradient_buffer = sums * m.gradient_sum;
  const bool kept_on_device = o.activations == OffloadTo::none;
  m.regions = kept_on_device || o.buffers == 1 || p.offload.unit == StreamBy::matrix ? 1 : 2;
  m.region = m.one_layer.step.size;
  m.slot = m.one_layer.slot;
  m.embedding_slot = m.one_layer.last_slot;
  m.slot_in_region = m.embedding_slot;
  m.stream = m.one_layer.tensors[g.stream].size;
  m.kept_slots = micros * units.layers;
  const bytes word = bytes{4} * most_word_rows(p) * p.model.hidden;
  bytes at = 0;
  const auto place = [&](Region& r, bytes size) { r = {at, size}, at += size; };
  place(m.weights, homes_of(p).weights_stay_on_device ? all : m.weight_buffers * m.weight_buffer);
  place(m.gradients, m.gradient_buffers * m.gradient_buffer);
  place(m.word_rows, word);
  place(m.d_word_rows, sums * word);
  place(m.batch, micros * batch_layout(p).size);
  place(m.streams, micros * m.stream);
  place(m.embedding, micros * m.embedding_slot);
  place(m.device_kept, kept_on_device ? m.kept_slots * m.slot : 0);
  place(m.working, m.regions * m.region);
}

constexpr void place_on_host(const Graph& g, const StreamUnits& units, const Policy& p,
                             StreamPlan& m) {
  const Offload& o = p.offload;
  const Homes homes = homes_of(p);
  const std::int64_t flat = g.parameters.flat_size();
  bytes disk = 0;
  for (int i = 0; i < units.kinds.size; ++i) {
    const StreamUnit& u = units.kinds.rows[i];
    const PieceRecord& r = u.record;
    if (r.size() > m.staging_slot) m.staging_slot = r.size();
    if (r.gradients > m.gradient_slot) m.gradient_slot = r.gradients;
    disk += r.size() * u.pieces * (u.segment == Segment::block ? units.layers : 1);
  }
  m.staging_slots = disk > 0 ? o.buffers + 1 : 0;
  m.gradient_slots = m.gradient_slot > 0 ? o.buffers : 0;
  m.host_kept_slots = o.activations == OffloadTo::none   ? 0
                      : o.activations == OffloadTo::host ? m.kept_slots
                                                         : o.buffers + 1;
  const auto whole = [](bytes size) { return round_up(size, PieceRecord::block); };
  bytes at = 0;
  const auto place = [&](Region& r, bytes size) { r = {at, whole(size)}, at += whole(size); };
  place(m.staging, m.staging_slots * m.staging_slot);
  place(m.gradient_staging, m.gradient_slots * m.gradient_slot);
  place(m.host_weights, homes.weights == OffloadTo::host ? 4 * flat : 0);
  place(m.host_moments, homes.moments == OffloadTo::host ? 8 * flat : 0);
  place(m.host_gradients, homes.gradients == OffloadTo::host
                              ? gradient_offset(g.parameters, p, g.parameters.rows.size)
                              : 0);
  place(m.host_kept, m.host_kept_slots * whole(m.slot));
  place(m.host_word_rows, m.word_rows.size);
  place(m.host_d_word_rows, m.word_rows.size);
  place(m.word_gradient, 4 * units.kinds.rows[StreamUnits::word_table].piece);
  m.disk_states = {0, disk};
  m.disk_kept = {disk, o.activations == OffloadTo::disk ? m.kept_slots * whole(m.slot) : 0};
}

}  // namespace offload

/// The plan of a policy that offloads, from its graph.
constexpr StreamPlan plan_stream(const Graph& g, const Policy& p) {
  StreamPlan m;
  const Policy one = one_layer_of(p);
  m.one_layer = plan_memory(g, one);
  m.runtime = p.device.reserved;
  const StreamUnits units = stream_units(g, p);
  offload::place_on_device(g, units, p, m);
  offload::place_on_host(g, units, p, m);
  return m;
}
constexpr StreamPlan plan_stream(const Policy& p) {
  return plan_stream(derive_graph(p), p);
}

/// Regions of the device follow each other, aligned, and buffers hold every unit.
constexpr bool regions_tile_the_device(const StreamUnits& units, const StreamPlan& m) {
  bytes at = 0;
  for (const Region& r : {m.weights, m.gradients, m.word_rows, m.d_word_rows, m.batch, m.streams,
                          m.embedding, m.device_kept, m.working}) {
    if (r.offset != at || r.offset % tensor_alignment != 0) return false;
    at = r.end();
  }
  for (int i = 1; i < units.kinds.size; ++i)
    if (units.kinds.rows[i].on_device > m.weight_buffer ||
        units.kinds.rows[i].gradient > m.gradient_sum)
      return false;
  return at == m.device();
}

/// Units follow each other in the flat vector and leave nothing out; so do pieces in each unit.
constexpr bool units_tile_the_parameters(const ParameterTable& t, const StreamUnits& units) {
  std::int64_t at = 0;
  int row = 0;
  for (int unit = 0; unit < units.count(); ++unit) {
    const StreamUnit& u = units.of(unit);
    if (start_of(t, units, unit) != at) return false;
    at += u.elements;
    std::int64_t pieces = 0;
    for (int i = 0; i < u.pieces; ++i) pieces += u.elements_of(i);
    if (pieces != u.elements || u.elements_of(u.pieces - 1) <= 0) return false;
  }
  for (int i = 0; i < units.kinds.size; ++i) {
    if (units.kinds.rows[i].first != row) return false;
    row += units.kinds.rows[i].count;
  }
  return at == t.flat_size() && row == t.rows.size;
}

// templates --------------------------------------------------------------------------------------

/// The plan of a policy that offloads, and its proofs.
template <class P> struct StreamOf {
  static constexpr Graph graph = derive_graph(P::policy);
  static constexpr StreamUnits units = stream_units(graph, P::policy);
  static constexpr StreamPlan plan = plan_stream(graph, P::policy);

  static_assert(P::policy.offload.any(), "internal: a stream of a policy that offloads nothing");
  static_assert(no_live_tensors_overlap(graph, one_layer_of(P::policy), plan.one_layer),
                "internal: two live tensors overlap");
  static_assert(regions_tile_the_device(units, plan),
                "internal: regions of the device overlap or leave a gap");
  static_assert(units_tile_the_parameters(graph.parameters, units),
                "internal: a parameter is in no unit, or in two");
};

}  // namespace ctrain
