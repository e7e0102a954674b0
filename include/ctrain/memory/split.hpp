/// \file  The numbers of a step that is split over ranks: who, how many micro-batches, which buffers.   floor 3: memory
#pragma once

#include <ctrain/core/units.hpp>
#include <ctrain/memory/buckets.hpp>
#include <ctrain/policy/grid.hpp>
#include <ctrain/policy/policy.hpp>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// Numbers that a schedule is built from.
struct Split {
  Grid grid{};
  Zero zero{};
  PipelineOrder order = PipelineOrder::one_forward_one_backward;
  bool sequence = false;
  int layers = 1;
  int micro_batches = 1;
  ElementBytes size{};
  bytes stream = 0;  // what a stage hands on: rows x hidden in binary32, a tensor rank's part

  /// Buffers that stage 3 gathers into, and those that stages 2 and 3 reduce from.
  constexpr int gather_buffers() const { return zero.prefetch + 1; }
  static constexpr int reduce_buffers = 2;
  static constexpr int d_stream_buffers = 2;
  /// Micro-batches whose activations stage `stage` keeps at once. In ZB-H1 a stage keeps those
  /// whose gradients of weights are still to come as well.
  constexpr int slots(int stage) const {
    const int ahead = order == PipelineOrder::zero_bubble ? grid.pipeline : grid.pipeline - stage;
    return ahead < micro_batches ? ahead : micro_batches;
  }
  /// Bytes of a bucket's gradients that tensor ranks have summands of.
  constexpr bytes norms_to_sum(const Bucket& bucket) const {
    return sequence ? bucket.norm_elements * size.gradient : 0;
  }
  /// The group whose square sums make the global norm, and whether there is more than one sum.
  constexpr Group norm_group() const { return zero.stage == 0 ? Group::model : Group::world; }
  constexpr bool gathers_norm() const { return grid.size(norm_group()) > 1; }
};

// functions --------------------------------------------------------------------------------------

/// One data rank has nothing to share, whatever the stage of ZeRO.
constexpr Split split_of(const Policy& p) {
  const bool sequence = p.parallel.sequence;
  Zero zero = p.zero;
  if (p.parallel.data == 1) zero.stage = 0;
  return {
      .grid = grid_of(p.parallel),
      .zero = zero,
      .order = p.parallel.order,
      .sequence = sequence,
      .layers = p.model.layers,
      .micro_batches = p.batch.accumulation,
      .size = {},
      .stream = bytes{4} * p.batch.rows() * p.model.hidden / (sequence ? p.parallel.tensor : 1)};
}

}  // namespace ctrain
