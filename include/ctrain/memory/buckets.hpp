/// \file  Which parameters a rank has, in which buckets they travel, and its share of each state.   floor 3: memory
#pragma once

#include <ctrain/model/parameters.hpp>
#include <ctrain/policy/grid.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// Bytes of one element on the wire or in memory. Gradients and parameters travel in binary32,
/// which is also what the step computes them in; other payloads are for comparing with the figures
/// of others. `state` is all that an optimizer keeps (AdamW: two moments).
struct ElementBytes {
  int parameter = 4, gradient = 4, state = 8;
};

/// Consecutive units of the model (unit 0 is the embedding, then one per block, then the head)
/// whose gradients are reduced together and whose parameters are gathered together. `elements` are
/// padded so that every data rank has an equal shard. `norm_elements` of them are gains and biases
/// of norms that work on single rows.
struct Bucket {
  int first = 0, units = 0;
  std::int64_t elements = 0;
  std::int64_t norm_elements = 0;

  constexpr bool has(int unit) const { return unit >= first && unit < first + units; }
};

/// Deeper models put more blocks into a bucket, so that tables do not grow with depth.
inline constexpr int most_buckets = 64;

/// What all ranks of one pipeline stage hold. Bucket 0 is what backward finishes first.
struct StageLayout {
  int stage = 0;
  int first = 0, units = 0;
  Table<Bucket, most_buckets> buckets;

  constexpr int bucket_of(int unit) const {
    int i = 0;
    while (i + 1 < buckets.size && !buckets.rows[i].has(unit)) ++i;
    return i;
  }
  /// First element of a bucket among a stage's: in the order of the model, so that one rank holds
  /// the flat vector. Its shard among the shards: that, divided by the data ranks.
  constexpr std::int64_t start_of(int bucket) const {
    std::int64_t sum = 0;
    for (int i = buckets.size - 1; i > bucket; --i) sum += buckets.rows[i].elements;
    return sum;
  }
  constexpr std::int64_t largest_bucket() const {
    std::int64_t most = 0;
    for (int i = 0; i < buckets.size; ++i)
      if (buckets.rows[i].elements > most) most = buckets.rows[i].elements;
    return most;
  }
  constexpr bool has(int unit) const { return unit >= first && unit < first + units; }
  constexpr std::int64_t elements() const {
    std::int64_t sum = 0;
    for (int i = 0; i < buckets.size; ++i) sum += buckets.rows[i].elements;
    return sum;
  }
};

/// Bytes of model states that one rank holds.
struct StateShares {
  bytes parameters = 0, gradients = 0, optimizer = 0;
  constexpr bytes total() const { return parameters + gradients + optimizer; }
};

// functions --------------------------------------------------------------------------------------

/// Elements of one unit, each tensor aligned as in the flat vector.
constexpr std::int64_t unit_elements(const ParameterTable& t, Segment segment) {
  if (segment == Segment::block) return t.block_size;
  return segment == Segment::embedding ? t.embedding_size : t.head_size;
}

/// The part of the model that a unit is.
constexpr Segment segment_of(const ParameterTable& t, int unit) {
  return unit == 0 ? Segment::embedding : unit > t.layers ? Segment::head : Segment::block;
}
/// Elements before a unit in its bucket.
constexpr std::int64_t offset_in_bucket(const ParameterTable& t, const Bucket& bucket, int unit) {
  std::int64_t sum = 0;
  for (int u = bucket.first; u < unit; ++u) sum += unit_elements(t, segment_of(t, u));
  return sum;
}

/// True iff it belongs to a norm over the rows of the stream: all but the head's, which sees one
/// row a sentence.
constexpr bool norms_rows(const Parameter& p) {
  return p.norm && p.segment != Segment::head;
}

/// Elements of such norms.
constexpr std::int64_t norm_elements(const ParameterTable& t, Segment segment) {
  std::int64_t sum = 0;
  for (int i = 0; i < t.rows.size; ++i)
    if (t.rows.rows[i].segment == segment && norms_rows(t.rows.rows[i]))
      sum += t.rows.rows[i].elements();
  return sum;
}

/// `t` is what a tensor rank holds. Blocks are dealt evenly; the first stage also has the embedding
/// and the last one the head. Buckets fill from the head down, in whole units, until each has at
/// least `bucket` bytes.
constexpr StageLayout stage_layout(const ParameterTable& t, const Grid& grid, bytes bucket,
                                   ElementBytes size, int stage) {
  const int blocks = t.layers / grid.pipeline;
  const bool head = stage == grid.pipeline - 1;
  StageLayout layout{.stage = stage,
                     .first = stage == 0 ? 0 : 1 + stage * blocks,
                     .units = blocks + (stage == 0) + head,
                     .buckets = {}};
  const std::int64_t embedding_size = unit_elements(t, Segment::embedding),
                     block_size = unit_elements(t, Segment::block),
                     head_size = unit_elements(t, Segment::head),
                     embedding_norms = norm_elements(t, Segment::embedding),
                     block_norms = norm_elements(t, Segment::block);
  const int least_units = (layout.units + most_buckets - 1) / most_buckets;
  Bucket open;
  for (int unit = layout.first + layout.units - 1; unit >= layout.first; --unit) {
    open.first = unit;
    ++open.units;
    open.elements += unit == 0 ? embedding_size : unit == t.layers + 1 ? head_size : block_size;
    if (unit <= t.layers) open.norm_elements += unit == 0 ? embedding_norms : block_norms;
    const bool full = open.elements * size.gradient >= bucket && open.units >= least_units;
    if (!full && unit > layout.first) continue;
    open.elements = round_up(open.elements, 16 * grid.data);
    layout.buckets.add(open);
    open = {};
  }
  return layout;
}

/// What a rank of that stage holds (arXiv 1910.02054, section 5), shards rounded up.
constexpr StateShares state_shares(const StageLayout& layout, const Grid& grid, int zero_stage,
                                   ElementBytes size) {
  const std::int64_t all = layout.elements(), shard = all / grid.data;
  return {.parameters = (zero_stage >= 3 ? shard : all) * size.parameter,
          .gradients = (zero_stage >= 2 ? shard : all) * size.gradient,
          .optimizer = (zero_stage >= 1 ? shard : all) * size.state};
}

}  // namespace ctrain
