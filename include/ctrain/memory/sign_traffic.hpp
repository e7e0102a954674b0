/// \file  What sums of one bit an element keep and send, tensor by tensor.   floor 3: memory
#pragma once

#include <ctrain/core/units.hpp>
#include <ctrain/memory/buckets.hpp>
#include <ctrain/model/parameters.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>
#include <numeric>

namespace ctrain {

/// The sizes of a flat tensor's compression over `ranks`.
struct SignLayout {
  std::int64_t count = 0;  // of the tensor
  int ranks = 1;

  /// A chunk is whole bytes, and as DeepSpeed has it: count is padded to a multiple of
  /// ranks * lcm(8, ranks).
  constexpr std::int64_t padded() const {
    return round_up(count, std::int64_t{ranks} * std::lcm(8, ranks));
  }
  constexpr std::int64_t chunk() const { return padded() / ranks; }
  constexpr bytes chunk_bytes() const { return chunk() / 8; }
  /// What a rank sends in one all-reduce: signs twice, to the servers and from its own, and two
  /// scales, each to every other rank.
  constexpr bytes bytes_sent() const {
    return (ranks - 1) * 2 * (chunk_bytes() + bytes(sizeof(float)));
  }
  constexpr bytes error_bytes() const { return bytes(sizeof(float)) * (padded() + chunk()); }
};

/// All tensors of a model together. A message is [a scale for each tensor | its chunk's signs,
/// tensor after tensor]; a rank sends one to each rank, and one more as the server of its chunk.
struct SignTraffic {
  int ranks = 1;
  std::int64_t tensors = 0, padded = 0, chunk = 0, chunk_bytes = 0;

  constexpr void add(std::int64_t elements, std::int64_t times) {
    const SignLayout layout{elements, ranks};
    tensors += times, padded += times * layout.padded();
    chunk += times * layout.chunk(), chunk_bytes += times * layout.chunk_bytes();
  }
  constexpr bytes scales() const { return bytes(sizeof(float)) * tensors; }
  constexpr bytes message() const { return round_up(scales() + chunk_bytes, 16); }

  // where things stand, from the start of the optimizer's own memory ----------------------------

  static constexpr bytes scratch = 256;  // sums of squares and the like
  constexpr bytes worker_errors() const { return scratch; }
  constexpr bytes server_errors() const { return worker_errors() + 4 * padded; }
  constexpr bytes outgoing() const { return round_up(server_errors() + 4 * chunk, 16); }
  constexpr bytes incoming() const { return outgoing() + ranks * message(); }
  constexpr bytes means() const { return incoming() + ranks * message(); }
  constexpr bytes size() const { return means() + ranks * message(); }
};

constexpr SignTraffic sign_traffic(const ParameterTable& t, int ranks) {
  SignTraffic traffic{.ranks = ranks};
  for (const Parameter& p : t.rows)
    traffic.add(p.elements(), p.segment == Segment::block ? t.layers : 1);
  return traffic;
}

/// Elements of all tensors, each rounded up to whole vectors.
constexpr std::int64_t whole_vectors(const ParameterTable& t) {
  std::int64_t elements = 0;
  for (const Parameter& p : t.rows)
    elements += round_up(p.elements(), 16) * (p.segment == Segment::block ? t.layers : 1);
  return elements;
}

/// What 1-bit LAMB keeps on top: a few numbers for each tensor, a variance that goes on moving, and
/// the momentum of the step before. Byte offsets from the start of the optimizer's own memory.
struct OneBitLambLayout {
  static constexpr bytes numbers = 32;  // of a tensor
  static constexpr int kept = 4;        // floats of them that outlive a step
  bytes tensors = 0, variance = 0, before = 0, size = 0;
};
constexpr OneBitLambLayout one_bit_lamb_layout(const ParameterTable& t, const SignTraffic& traffic,
                                               bytes start) {
  const std::int64_t elements = whole_vectors(t);
  OneBitLambLayout layout;
  layout.tensors = round_up(start, 64);
  layout.variance = round_up(layout.tensors + OneBitLambLayout::numbers * traffic.tensors, 64);
  layout.before = layout.variance + 4 * elements;
  layout.size = layout.before + 4 * elements;
  return layout;
}

/// Whether P's data ranks ever send each other signs.
constexpr bool sends_signs(const Policy& p) {
  return sends_signs(p.optimizer.kind) && p.parallel.data > 1;
}
constexpr OneBitLambLayout one_bit_lamb_layout(const Policy& p, const ParameterTable& t) {
  const SignTraffic traffic = sign_traffic(t, p.parallel.data);
  return one_bit_lamb_layout(t, traffic, sends_signs(p) ? traffic.size() : SignTraffic::scratch);
}

/// What 0/1 Adam keeps on top: on a rank alone, what its steps gather; among several, where that is
/// added to a worker's error, the weights that all ranks had at the last sync. (Subtracting from a
/// weight what was gathered would leave each rank with a rounding of its own.) A byte offset from
/// the start of the optimizer's own memory.
struct ZeroOneLayout {
  bytes elements = 0, size = 0;
};
constexpr ZeroOneLayout zero_one_layout(const Policy& p, const ParameterTable& t) {
  const bytes start =
      sends_signs(p) ? sign_traffic(t, p.parallel.data).size() : SignTraffic::scratch;
  const bytes first = round_up(start, 64);
  return {first, first + 4 * whole_vectors(t)};
}

/// Bytes that a rank's optimizer has beside its two moments.
constexpr bytes optimizer_memory(const Policy& p, const ParameterTable& t) {
  if (is_adam(p.optimizer.kind)) return 0;
  if (p.optimizer.kind == OptimizerKind::one_bit_lamb) return one_bit_lamb_layout(p, t).size;
  if (p.optimizer.kind == OptimizerKind::zero_one_adam) return zero_one_layout(p, t).size;
  return sends_signs(p) ? sign_traffic(t, p.parallel.data).size() : SignTraffic::scratch;
}

// what outlives a step ---------------------------------------------------------------------------

/// Where a tensor's share stands among those of all, taken in the order of the flat vector.
struct TensorCursor {
  std::int64_t tensor = 0, element = 0, padded = 0, chunk = 0, chunk_bytes = 0;
  constexpr void pass(const SignLayout& layout) {
    ++tensor;
    element += round_up(layout.count, 16);
    padded += layout.padded(), chunk += layout.chunk(), chunk_bytes += layout.chunk_bytes();
  }
};

/// What an optimizer goes on with beside its moments. `lamb_numbers` and `moving_variance` are of
/// 1-bit LAMB and the same on all data ranks; what compression lost and will send later is each
/// rank's own: all of a tensor as a worker, its chunk as a server.
enum class OptimizerBuffer : std::uint8_t {
  lamb_numbers,
  moving_variance,
  worker_error,
  server_error
};
inline constexpr OptimizerBuffer optimizer_buffers[] = {
    OptimizerBuffer::lamb_numbers, OptimizerBuffer::moving_variance, OptimizerBuffer::worker_error,
    OptimizerBuffer::server_error};
constexpr bool is_error(OptimizerBuffer b) {
  return b >= OptimizerBuffer::worker_error;
}
constexpr bool has_buffer(const Policy& p, OptimizerBuffer b) {
  return is_error(b) ? sends_signs(p) : p.optimizer.kind == OptimizerKind::one_bit_lamb;
}
/// Whether `updates` of them have sent signs: before the first that does, all errors are 0.
constexpr bool has_sent_signs(const Policy& p, std::int64_t updates) {
  const bool from_the_start = p.optimizer.kind == OptimizerKind::zero_one_adam;
  return sends_signs(p) && updates > (from_the_start ? 0 : p.optimizer.compression.freeze_step);
}

/// Floats of a tensor's buffer on one rank, and where they stand in the optimizer's own memory.
struct BufferPlace {
  std::int64_t count = 0;
  bytes offset = 0;
};
constexpr BufferPlace place_of(OptimizerBuffer b, const SignTraffic& traffic,
                               const OneBitLambLayout& lamb, const SignLayout& layout,
                               const TensorCursor& at) {
  switch (b) {
    case OptimizerBuffer::lamb_numbers:
      return {OneBitLambLayout::kept, lamb.tensors + OneBitLambLayout::numbers * at.tensor};
    case OptimizerBuffer::moving_variance:
      return {layout.count, lamb.variance + 4 * at.element};
    case OptimizerBuffer::worker_error:
      return {layout.padded(), traffic.worker_errors() + 4 * at.padded};
    default:
      return {layout.chunk(), traffic.server_errors() + 4 * at.chunk};
  }
}

// Paddings for 2, 4 and 8 ranks: 16, 32 and 64 elements.
static_assert(SignLayout{1, 2}.padded() == 16 && SignLayout{1, 4}.padded() == 32 &&
              SignLayout{1, 8}.padded() == 64 && SignLayout{1, 3}.padded() == 72);

}  // namespace ctrain
