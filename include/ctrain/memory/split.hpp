/// \file  The numbers of a step that is split over ranks: who, how many micro-batches, which buffers.   floor 3: memory
#pragma once

#include <ctrain/core/units.hpp>
#include <ctrain/memory/buckets.hpp>
#include <ctrain/policy/grid.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// What data ranks send each other in a step besides their records: gradients to be summed, signs
/// of what each of them has instead, or nothing, and then each goes on with its own.
enum class Sums : std::uint8_t { gradients, signs, nothing };

/// Numbers that a schedule is built from.
struct Split {
  Grid grid{};
  Zero zero{};
  PipelineOrder order = PipelineOrder::one_forward_one_backward;
  bool sequence = false;
  bool layout_invariant = false;
  bool adds_on_device = false;  // ranks with a card each add in the fixed tree
  bool trains = true;           // false: an evaluation, one micro-batch forward
  bool only_syncs = false;      // no micro-batch: signs of what was gathered in steps before
  int layers = 1;
  int micro_batches = 1;  // of a data rank
  ElementBytes size{};
  Sums sums = Sums::gradients;
  bytes sign_message = 0;  // of one data rank to another, where they send signs
  bytes stream = 0;        // what a stage hands on: rows x hidden in binary32, a tensor rank's part

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
  /// Sums of gradients that a rank keeps at once: one, or the unfinished nodes of a balanced tree
  /// over its micro-batches.
  constexpr int partial_sums() const {
    int count = 1;
    for (int n = 1; layout_invariant && n < micro_batches; n *= 2) ++count;
    return count;
  }
  /// Which micro-batch of the whole step a data rank takes in its i-th turn. Layout-invariant sums
  /// are one balanced tree over all of them: where ranks add what they have summed (stages 0, 1),
  /// a rank has every data-th one; where they add each turn's (2, 3), neighbours.
  constexpr int micro_batch(int data_rank, int turn) const {
    const int i = layout_invariant ? reversed(turn) : turn;
    return layout_invariant && zero.stage >= 2 ? data_rank * micro_batches + i
                                               : i * grid.data + data_rank;
  }
  /// A turn's bits in reverse, so that a tree's neighbours come one after the other.
  constexpr int reversed(int turn) const {
    int result = 0;
    for (int n = 1; n < micro_batches; n *= 2, turn /= 2) result = 2 * result + turn % 2;
    return result;
  }
  /// Bytes of a bucket's gradients that tensor ranks have summands of.
  constexpr bytes norms_to_sum(const Bucket& bucket) const {
    return sequence ? bucket.norm_elements * size.gradient : 0;
  }
  /// What each rank tells all others once a step: its part of the gradient's square sum, the losses
  /// and counts of its micro-batches.
  static constexpr bytes record = 128;
  /// What a host tells each step, and what a step decides and leaves for the next one.
  static constexpr bytes numbers = 64, state = 256;
  constexpr bool gathers_norm() const { return grid.ranks() > 1; }
};

/// What travels between hosts as one message: large enough that its bytes outweigh its start, small
/// enough that two of them stay in a core's cache until they are added.
inline constexpr bytes piece_size = 512 * KiB;
inline constexpr int pieces_in_flight = 2;

// functions --------------------------------------------------------------------------------------

/// Memory that a host's sums need while their addends travel: a constant for each group that talks.
constexpr bytes transfer_scratch(const Grid& grid) {
  int talking = 0;
  for (const Group g : {Group::data, Group::tensor, Group::model, Group::world})
    talking += grid.size(g) > 1;
  return talking * pieces_in_flight * piece_size;
}

/// Communicators of a rank with a card: of all ranks, of each group of several, and one for each
/// direction to each of its two neighbouring stages.
constexpr int communicators(const Grid& grid) {
  if (grid.ranks() == 1) return 0;
  int count = 1 + (grid.pipeline > 1 ? 4 : 0);
  for (const Group g : {Group::data, Group::tensor, Group::model}) count += grid.size(g) > 1;
  return count;
}

/// Multiprocessors for each of them. What a card was given of a communicator holds them until the
/// others come, so the work of all must fit a card at once: 96 of an A100's 108. (Kernels of the
/// step end by themselves.) NCCL takes 32 at most.
constexpr int blocks_of_each(int communicators) {
  const int share = 96 / communicators;
  return share < 32 ? share : 32;
}

/// What NCCL takes of a card: by its documentation a buffer of 4 MiB for each multiprocessor and
/// peer, of which a ring has two. To be replaced by measurements.
constexpr bytes nccl_buffers(const Grid& grid) {
  const int count = communicators(grid);
  return count == 0 ? 0 : count * blocks_of_each(count) * 8 * MiB;
}

static_assert(nccl_buffers({}) == 0 && nccl_buffers({2, 1, 1}) == 512 * MiB);

/// What a member receives at most at once to add it, of a sum over so many with that payload: a
/// half where members halve it with partners, a share where sums go around a ring.
constexpr bytes largest_summand(int members, bytes payload) {
  if (members == 1) return 0;
  const bool halves = (members & (members - 1)) == 0;
  const bytes parts = halves ? 2 : members;
  return round_up((payload + parts - 1) / parts, size_of(DType::fp32));
}

static_assert(transfer_scratch({}) == 0 && transfer_scratch({2, 1, 1}) == 2 * MiB);

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
      .layout_invariant = p.deterministic == Deterministic::layout_invariant,
      .adds_on_device =
          p.device.kind == DeviceKind::cuda && p.deterministic == Deterministic::layout_invariant,
      .trains = true,
      .only_syncs = false,
      .layers = p.model.layers,
      .micro_batches = p.batch.accumulation,
      .size = {},
      .sums = Sums::gradients,
      .sign_message = 0,
      .stream = bytes{4} * p.batch.rows() * p.model.hidden / (sequence ? p.parallel.tensor : 1)};
}

}  // namespace ctrain
