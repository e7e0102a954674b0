/// \file  Where every byte of a step lives: one arena, placed at compile time.   floor 3: memory
#pragma once

#include <ctrain/memory/lifetimes.hpp>
#include <ctrain/memory/sign_traffic.hpp>
#include <ctrain/model/backward.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// A stretch of the arena.
struct Region {
  bytes offset = 0, size = 0;
  constexpr bytes end() const { return offset + size; }
};

/// Where a tensor stands. `per_block`: instance i is at offset + i * slot. `kept`: that of the j-th
/// micro-batch in flight is at offset + j * micro_batch.
struct Placement {
  bytes offset = -1;  // from the start of the arena
  bytes size = 0;
  bool per_block = false;
  bool kept = false;
};

/// One rank's arena: [parameters | gradients | moments | optimizer's own | copies | batches |
/// communication | scratch of a device | blocks' slots ... last slot and everything short-lived,
/// overlaid]. A slot holds a block's input and what its backward reads. A pipeline's stage has as
/// many [blocks' slots] as micro-batches in flight, and what is short-lived after them.
struct MemoryPlan {
  Region parameters, gradients, first_moment, second_moment;
  Region optimizer;       // what an optimizer has beside its moments: errors, messages of signs
  Region weight_copies;   // what products read instead of the masters
  Region batch;           // micro-batches, a step's numbers and state, all ranks' records
  Region communication;   // what is gathered, reduced, received and sent
  Region scratch;         // of products and kernels within one call, on a device
  Region step;            // every activation
  bytes slot = 0;         // one block's input and saved tensors
  bytes last_slot = 0;    // where the last block's begins, from the start of `step`
  bytes micro_batch = 0;  // what each micro-batch in flight keeps for itself; 0: there is one
  bytes saved = 0;        // all blocks' slots and the stream after them
  bytes step_bound = 0;   // no placement can be smaller: bytes alive at the worst moment
  bytes runtime = 0;      // what the device's runtime and the communicator take, outside the arena
  Placement tensors[64]{};
  Placement stream_after_last{};

  constexpr bytes optimizer_state() const {
    return first_moment.size + second_moment.size + optimizer.size;
  }
  /// What is kept from forward to backward, and what is needed on top of it at the worst moment.
  constexpr bytes activations() const { return saved < step.size ? saved : step.size; }
  constexpr bytes workspace() const { return scratch.size + step.size - activations(); }
  constexpr bytes arena() const { return step.end(); }
  constexpr bytes total() const { return arena() + runtime; }
};

/// Byte offsets of a BatchView's arrays inside MemoryPlan::batch.
struct BatchLayout {
  bytes token_ids = 0, token_types = 0, positions = 0, row_keys = 0, first_row = 0, lengths = 0,
        labels = 0;
  bytes size = 0;
};

/// Byte offsets inside MemoryPlan::communication, and what one buffer of each kind takes.
struct CommunicationLayout {
  bytes gathered = 0, reducing = 0, bucket = 0;
  bytes d_stream_in = 0, d_stream_out = 0, stream = 0;
  bytes norms = 0, bucket_norms = 0;
  Region data_summand{}, tensor_summand{};  // what cards add comes there first
  bytes size = 0;
};

// functions --------------------------------------------------------------------------------------

constexpr BatchLayout batch_layout(const Policy& p) {
  const bytes rows = round_up(bytes{4} * p.batch.rows(), tensor_alignment);
  const bytes sentences = round_up(bytes{4} * (p.batch.sentence_bound() + 1), tensor_alignment);
  BatchLayout b;
  bytes at = 0;
  for (bytes* field : {&b.token_ids, &b.token_types, &b.positions, &b.row_keys})
    *field = at, at += rows;
  if (p.device.kind == DeviceKind::cuda) at += tensor_alignment;  // a key for sentences of length 0
  for (bytes* field : {&b.first_row, &b.lengths, &b.labels}) *field = at, at += sentences;
  b.size = at;
  return b;
}

/// Micro-batches whose tokens are in memory at once: those in flight; on a device all of a step,
/// which it takes without its host.
constexpr int batches_held(const Policy& p, const Split& split, int stage) {
  return p.device.kind == DeviceKind::cuda ? split.micro_batches : split.slots(stage);
}

constexpr CommunicationLayout communication_layout(const Split& split, const StageLayout& stage) {
  CommunicationLayout c;
  bytes at = 0;
  const auto take = [&](bytes& field, int count, bytes each) { field = at, at += count * each; };
  c.bucket = stage.largest_bucket() * 4;
  take(c.gathered, split.zero.stage == 3 ? split.gather_buffers() : 0, c.bucket);
  take(c.reducing, split.zero.stage >= 2 ? Split::reduce_buffers : 0, c.bucket);
  c.stream = round_up(split.stream, tensor_alignment);
  const bool before = stage.stage > 0, after = stage.stage + 1 < split.grid.pipeline;
  take(c.d_stream_in, after ? Split::d_stream_buffers : 0, c.stream);
  take(c.d_stream_out, before ? Split::d_stream_buffers : 0, c.stream);
  for (int b = 0; b < stage.buckets.size; ++b)
    if (const bytes norms = split.norms_to_sum(stage.buckets.rows[b]); norms > c.bucket_norms)
      c.bucket_norms = round_up(norms, tensor_alignment);
  take(c.norms, 1, c.bucket_norms);
  const auto take_summand = [&](Region& summand, int members, bytes payload) {
    if (split.adds_on_device)
      summand.size = round_up(largest_summand(members, payload), tensor_alignment);
    take(summand.offset, 1, summand.size);
  };
  take_summand(c.data_summand, split.grid.data, c.bucket);
  const bytes whole_stream = split.stream * (split.sequence ? split.grid.tensor : 1);
  take_summand(c.tensor_summand, split.grid.tensor,
               whole_stream > c.bucket_norms ? whole_stream : c.bucket_norms);
  c.size = at;
  return c;
}

/// Elements of one block's matrices, which have copies in the compute type.
constexpr std::int64_t block_matrix_elements(const ModelShape& m) {
  return std::int64_t{4} * m.hidden * m.hidden + std::int64_t{2} * m.hidden * m.feed_forward;
}

/// Copies of each matrix: packed keeps one per direction, plain none; a GPU one in 16 bits.
constexpr int copies_of_weights(const Policy& p) {
  if (p.device.kind == DeviceKind::host) return p.weights == WeightLayout::packed ? 2 : 0;
  return size_of(p.compute_type()) == 2 ? 1 : 0;
}

/// What a device's matrix library may use within one product; 32 MiB is what NVIDIA recommends for
/// Hopper.
inline constexpr bytes library_workspace = 32 * MiB;

/// What a call's kernels hand to each other on a device, and the library's workspace before it. The
/// sums over rows of columns (backend/cuda/column_sums.hpp: at most 64 partial rows, two of them
/// for a norm), a number for each row and head (attention's backward pass), 32 bytes for each
/// 65,536 elements (the sum of squares), a bias in 16 bits.
constexpr bytes device_scratch(const ParameterTable& t, const Policy& p) {
  if (p.device.kind == DeviceKind::host) return 0;
  const ModelShape& m = p.model;
  bytes most = 0;
  const auto needs = [&most](bytes size) { most = size > most ? size : most; };
  for (const int columns : {2 * m.hidden, 3 * m.hidden, m.feed_forward})
    needs(bytes{64} * 4 * columns);
  needs(bytes{4} * p.batch.rows() * m.heads);
  for (const Parameter& each : t.rows) needs(32 * (each.elements() / 65536 + 1));
  return library_workspace + round_up(most, tensor_alignment);
}

/// The type in which a parameter's gradient waits for the update.
constexpr DType gradient_type(const Parameter& parameter, const Policy& p) {
  const bool matrix_of_block = parameter.segment == Segment::block && !parameter.vector;
  return matrix_of_block ? storage_of(p.precision.gradients) : DType::fp32;
}

/// Bytes from the start of the gradient region to the gradient of parameter `i`; with `i` = the
/// number of rows, the size of the region. Gradients stand in the order of the flat vector.
constexpr bytes gradient_offset(const ParameterTable& t, const Policy& p, int i, int layer = 0) {
  const auto size = [&](int row) {
    return round_up(t.rows.rows[row].elements() * size_of(gradient_type(t.rows.rows[row], p)),
                    tensor_alignment);
  };
  const bool last = i == t.rows.size;
  const Segment segment = last ? Segment::head : t.rows.rows[i].segment;
  bytes before = 0, block = 0;
  for (int row = 0; row < t.rows.size; ++row) {
    const Segment home = t.rows.rows[row].segment;
    if (home == Segment::block) block += size(row);
    if (home == segment ? row < i : home < segment && home != Segment::block) before += size(row);
  }
  if (segment == Segment::block) return before + layer * block;
  return before + (segment == Segment::head ? t.layers * block : 0);
}

namespace plan {

/// Largest bytes alive at one moment.
constexpr bytes lower_bound(const Lifetimes& l) {
  bytes worst = 0;
  for (int time = 0; time < l.length; ++time) {
    bytes alive = 0;
    for (int i = 0; i < l.rows.size; ++i)
      if (l.rows.rows[i].alive_at(time)) alive += l.rows.rows[i].size;
    if (alive > worst) worst = alive;
  }
  return worst;
}

/// Which rows live at the same time, asked many times.
struct Conflicts {
  bool with[64][64]{};

  constexpr explicit Conflicts(const Lifetimes& l) {
    for (int i = 0; i < l.rows.size; ++i)
      for (int j = 0; j < i; ++j) with[i][j] = with[j][i] = l.rows.rows[i].overlaps(l.rows.rows[j]);
  }
};

/// Lowest offset at which `row` fits beside all placed rows that live when it does.
constexpr bytes lowest_fit(const Lifetimes& l, const Conflicts& conflicts,
                           const bytes (&offsets)[64], int row) {
  const bytes size = l.rows.rows[row].size;
  bytes at = 0;
  for (bool moved = true; moved;) {
    moved = false;
    for (int i = 0; i < l.rows.size; ++i) {
      if (offsets[i] < 0 || !conflicts.with[row][i]) continue;
      const bytes end = offsets[i] + l.rows.rows[i].size;
      if (at + size <= offsets[i] || end <= at) continue;
      at = end;
      moved = true;
    }
  }
  return at;
}

/// Greedy placement (Pisarchyk & Lee, arXiv 2001.03288): the tensor of the highest rank, and among
/// equals the largest, goes to the lowest offset that is free whenever it lives. Returns the row
/// that ends highest.
constexpr int place_greedily(const Lifetimes& l, const Conflicts& conflicts, const int (&rank)[64],
                             bytes (&offsets)[64]) {
  for (;;) {
    int next = -1;
    for (int i = 0; i < l.rows.size; ++i)
      if (offsets[i] < 0 &&
          (next < 0 || rank[i] > rank[next] ||
           (rank[i] == rank[next] && l.rows.rows[i].size > l.rows.rows[next].size)))
        next = i;
    if (next < 0) break;
    offsets[next] = lowest_fit(l, conflicts, offsets, next);
  }
  int highest = 0;
  for (int i = 0; i < l.rows.size; ++i)
    if (offsets[i] + l.rows.rows[i].size > offsets[highest] + l.rows.rows[highest].size)
      highest = i;
  return highest;
}

/// Places everything that has no offset yet and returns the end of the highest tensor: greedily,
/// and as long as that misses the bound, again with the tensor that stuck out placed first. On a
/// grid of 130,000 policies every one of MegatronBERT met its bound; of BERT's, one in a hundred
/// missed it, by at most 4 per cent, where the workspaces of many host threads weigh as much as a
/// block.
constexpr bytes place(const Lifetimes& l, bytes (&offsets)[64], bytes bound) {
  constexpr int most_tries = 16;
  const Conflicts conflicts(l);
  int rank[64]{};
  bytes best[64]{}, peak = 0;
  for (int attempt = 1; attempt <= most_tries; ++attempt) {
    bytes now[64]{};
    for (int i = 0; i < 64; ++i) now[i] = offsets[i];
    const int highest = place_greedily(l, conflicts, rank, now);
    const bytes end = now[highest] + l.rows.rows[highest].size;
    if (attempt == 1 || end < peak) {
      peak = end;
      for (int i = 0; i < 64; ++i) best[i] = now[i];
    }
    if (peak == bound) break;
    rank[highest] = attempt;
  }
  for (int i = 0; i < 64; ++i) offsets[i] = best[i];
  return peak;
}

/// True iff each block keeps an instance of its own.
constexpr bool is_saved_by_block(const Graph& g, const Lifetime& l) {
  if (g.tensors.rows[l.tensor].is_stream) return !l.next_stream && l.read_by_backward;
  return (l.written_by_block && l.read_by_backward) || (l.kept && l.made_for_weights && l.of_block);
}

/// True iff the embedding keeps it for its own backward: alive from the first op to the last.
constexpr bool is_saved_by_embedding(const Graph& g, const Lifetime& l) {
  return l.written_by_embedding && l.read_later && !g.tensors.rows[l.tensor].is_stream;
}

/// What is fixed first, from the start of `step`.
struct Saved {
  bytes slot_begin = 0, slot = 0, end = 0;
};

/// Fixes what is kept: the embedding's tensors below, then the last block's slot, its stream first,
/// so that a block's output is the next block's input wherever that stands, then the stream after
/// it and what else a micro-batch in flight keeps.
constexpr Saved place_saved(const Graph& g, const Lifetimes& l, bytes (&offsets)[64]) {
  bytes at = 0;
  for (int i = 0; i < l.rows.size; ++i)
    if (is_saved_by_embedding(g, l.rows.rows[i])) offsets[i] = at, at += l.rows.rows[i].size;
  const bytes start = at;
  for (const bool stream : {true, false})
    for (int i = 0; i < l.rows.size; ++i)
      if (is_saved_by_block(g, l.rows.rows[i]) &&
          g.tensors.rows[l.rows.rows[i].tensor].is_stream == stream)
        offsets[i] = at, at += l.rows.rows[i].size;
  const bytes end = at;
  for (int i = 0; i < l.rows.size; ++i)
    if (l.rows.rows[i].next_stream) offsets[i] = at, at += l.rows.rows[i].size;
  for (int i = 0; i < l.rows.size; ++i)
    if (l.rows.rows[i].kept && offsets[i] < 0) offsets[i] = at, at += l.rows.rows[i].size;
  return {start, end - start, at};
}

/// Places the activations of a stage from offset 0; fills slot, saved, step and tensors.
constexpr void place_step(const Graph& g, const Policy& p, int stage, MemoryPlan& m) {
  const Lifetimes l = lifetimes_of(g, p, stage);
  const Split split = split_of(p);
  bytes offsets[64]{};
  for (bytes& offset : offsets) offset = -1;
  const Saved saved = place_saved(g, l, offsets);
  const bytes bound = lower_bound(l), peak = place(l, offsets, bound);

  m.slot = saved.slot;
  const bytes below = m.slot * (p.model.layers / split.grid.pipeline - 1);
  m.last_slot = saved.slot_begin + below;
  const int in_flight = split.slots(stage);
  if (split.grid.pipeline > 1) m.micro_batch = below + saved.end;
  const bytes others = m.micro_batch > 0 ? (in_flight - 1) * m.micro_batch : 0;
  const bytes last_slot_end = saved.slot_begin + saved.slot;
  for (int i = 0; i < l.rows.size; ++i) {
    const Lifetime& row = l.rows.rows[i];
    const bool per_block =
        offsets[i] >= saved.slot_begin && offsets[i] < last_slot_end && is_saved_by_block(g, row);
    const bool moves = !per_block && !is_saved_by_embedding(g, row);
    (row.next_stream ? m.stream_after_last : m.tensors[row.tensor]) = Placement{
        offsets[i] + (moves ? below : 0) + (row.kept ? 0 : others), row.size, per_block, row.kept};
  }
  if (m.stream_after_last.offset < 0) m.stream_after_last = m.tensors[g.stream];
  m.step.size = below + others + peak;
  m.step_bound = below + others + bound;
  m.saved = others + (m.micro_batch > 0 ? m.micro_batch : m.last_slot + m.slot);
}

}  // namespace plan

/// The plan of one rank of a stage from its graph.
constexpr MemoryPlan plan_memory(const Graph& g, const Policy& p, int stage = 0) {
  MemoryPlan m;
  plan::place_step(g, p, stage, m);
  const Split split = split_of(p);
  const StageLayout layout =
      stage_layout(g.parameters, split.grid, split.zero.bucket, split.size, stage);
  const StateShares shares = state_shares(layout, split.grid, split.zero.stage, split.size);
  const bool one_rank = split.grid.ranks() == 1;
  const bytes gradients =
      one_rank ? gradient_offset(g.parameters, p, g.parameters.rows.size) : shares.gradients;
  bytes at = 0;
  const auto take = [&](Region& r, bytes size) {
    r = {at, round_up(size, tensor_alignment)};
    at = r.end();
  };
  take(m.parameters, shares.parameters);
  take(m.gradients, split.partial_sums() * round_up(gradients, tensor_alignment));
  take(m.first_moment, shares.optimizer / 2);
  take(m.second_moment, shares.optimizer / 2);
  take(m.optimizer, optimizer_memory(p, g.parameters));
  take(m.weight_copies, copies_of_weights(p) * (p.model.layers / split.grid.pipeline) *
                            block_matrix_elements(p.model) / split.grid.tensor *
                            size_of(p.compute_type()));
  take(m.batch, batches_held(p, split, stage) * batch_layout(p).size + Split::numbers +
                    Split::state + Split::record * split.grid.ranks());
  take(m.communication, communication_layout(split, layout).size);
  take(m.scratch, device_scratch(g.parameters, p));
  m.step.offset = at;
  for (Placement& t : m.tensors)
    if (t.offset >= 0) t.offset += m.step.offset;
  m.stream_after_last.offset += m.step.offset;
  m.runtime = p.device.reserved;
  m.runtime +=
      p.device.kind == DeviceKind::host ? transfer_scratch(split.grid) : nccl_buffers(split.grid);
  return m;
}

/// That of the rank that needs most.
constexpr MemoryPlan plan_memory(const Policy& p) {
  const Graph g = derive_graph(p);
  MemoryPlan most = plan_memory(g, p);
  for (int stage = 1; stage < p.parallel.pipeline; ++stage) {
    const MemoryPlan m = plan_memory(g, p, stage);
    if (m.total() > most.total()) most = m;
  }
  return most;
}

}  // namespace ctrain
