/// \file  Plan and arena of one rank: the address of every parameter, state, activation and buffer.   floor 6: trainer
#pragma once

#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/calls.hpp>
#include <ctrain/memory/budget.hpp>
#include <ctrain/schedule/schedule.hpp>
#include <ctrain/trainer/decision.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace ctrain {

/// What is kept in fp32 for every element of a parameter.
enum class State : std::uint8_t { weight, first_moment, second_moment };

/// Consecutive elements of one parameter on this rank. `whole` and `shard` are where they begin
/// among all elements of the stage, and, of a run within this rank's shards, among those.
struct Run {
  int parameter = 0, layer = 0;
  std::int64_t first = 0, count = 0;  // of the parameter
  std::int64_t whole = 0, shard = 0;
};

/// The arrays of a micro-batch that start at `base`.
inline BatchView batch_at(std::byte* base, const BatchLayout& layout) {
  const auto at = [&]<class T>(T*& field, bytes offset) {
    field = reinterpret_cast<T*>(base + offset);
  };
  BatchView b;
  at(b.token_ids, layout.token_ids);
  at(b.token_types, layout.token_types);
  at(b.positions, layout.positions);
  at(b.row_keys, layout.row_keys);
  at(b.first_row, layout.first_row);
  at(b.lengths, layout.lengths);
  at(b.labels, layout.labels);
  return b;
}

/// Typed addresses inside the arena of P's plan. `layer` is the block an op runs for, counted over
/// the whole model.
template <HasPolicy P, class Space = Arena> class MemoryMap {
 public:
  // auto: nvcc 13 takes a named type for a second initialisation
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& graph = GraphOf<P>::graph;
  static constexpr const auto& split = ScheduleOf<P>::split;
  using Compute = StorageOf<P::policy.compute_type()>;
  using BlockGradient = StorageOf<storage_of(P::policy.precision.gradients)>;

  explicit MemoryMap(Coordinates at = {})
      : at_(at),
        plan_(PlanOf<P>::of_stage.rows[at.pipeline]),
        layout_(ScheduleOf<P>::schedule.layouts[at.pipeline]),
        first_layer_(at.pipeline * (P::policy.model.layers / split.grid.pipeline)),
        arena_(plan_.arena()) {
    view_resident_weights();
    view_resident_gradients(0);
  }

  Space& arena() { return arena_; }
  const Space& arena() const { return arena_; }
  const MemoryPlan& plan() const { return plan_; }
  const StageLayout& layout() const { return layout_; }
  Coordinates at() const { return at_; }

  // what ops read and write ----------------------------------------------------------------------

  /// First element of a parameter's gradient, whose type is gradient_type(); T must be that.
  template <class T = float> T* gradient(int index, int layer = 0) {
    const Parameter& p = graph.parameters.rows[index];
    const bytes size = round_up(p.elements() * size_of(gradient_type(p, policy)), tensor_alignment);
    const bytes from = P::policy.parallel.ranks() == 1
                           ? gradients_ + gradient_offset(graph.parameters, policy, index, layer)
                           : gradients_of_unit_[unit_of(index, layer)] + 4 * p.offset;
    return reinterpret_cast<T*>(arena_.at(from, size));
  }

  /// First element of a weight, wherever its unit is in view.
  float* weight(int index, int layer = 0) {
    const Parameter& p = graph.parameters.rows[index];
    return floats(weights_of_unit_[unit_of(index, layer)] + 4 * p.offset,
                  round_up(p.elements(), 16));
  }

  /// Rows of the word table that an embedding sees.
  static constexpr int word_rows() {
    return P::policy.model.vocabulary / P::policy.parallel.tensor;
  }

  /// An activation or its gradient, of the micro-batch in view.
  template <class T> T* tensor(Operand x, int layer) {
    const Tensor& t = graph.tensors[x.tensor];
    const Placement& p = plan_.tensors[x.tensor];
    const int block = layer - first_layer_, instance = t.is_stream ? block + x.shift : block;
    const bytes offset = p.offset + (p.per_block ? instance * plan_.slot : 0) +
                         (p.kept ? slot_ * plan_.micro_batch : 0);
    return reinterpret_cast<T*>(arena_.at(offset, p.size));
  }

  /// A block's matrix with its copies. `index` is the first of the parameters that make it up.
  Weight<Compute> block_weight(int index, int layer, int out, int in) {
    Weight<Compute> w;
    w.master = weight(index, layer);
    w.out = out;
    w.in = in;
    constexpr int copies = copies_of_weights(P::policy);
    const bytes size = bytes{out} * in * bytes(sizeof(Compute));
    for (int copy = 0; copy < copies; ++copy) {
      auto* at = reinterpret_cast<Compute*>(
          arena_.at(copy_offset(index, layer - first_layer_, copies, copy * size), size));
      (copy == 0 ? w.forward : w.backward) = at;
    }
    return w;
  }

  /// What fills those copies.
  PrepareWeight<Compute> preparation(const Op& linear, int layer) {
    const Weight<Compute> w = block_weight(linear.parameter, layer, linear.out, linear.in);
    return {const_cast<Compute*>(w.forward), const_cast<Compute*>(w.backward), w.master, w.out,
            w.in};
  }

  // what is in view ------------------------------------------------------------------------------

  /// The micro-batch in flight that tensor() means.
  void view_micro_batch(int slot) { slot_ = slot; }

  void view_resident_weights() {
    if constexpr (split.zero.stage < 3)
      for (int b = 0; b < layout_.buckets.size; ++b)
        view(weights_of_unit_, b, plan_.parameters.offset + 4 * layout_.start_of(b));
  }
  /// A bucket's parameters are those in a buffer of stage 3.
  void view_gathered_weights(int bucket, int buffer) {
    view(weights_of_unit_, bucket, gathered_offset(buffer));
  }
  /// Gradients go to one of the sums that a rank keeps.
  void view_resident_gradients(int sum) {
    gradients_ = sum_offset(sum);
    if constexpr (split.zero.stage < 2)
      for (int b = 0; b < layout_.buckets.size; ++b)
        view(gradients_of_unit_, b, gradients_ + 4 * layout_.start_of(b));
  }
  /// A bucket's gradients go to a buffer of stages 2 and 3.
  void view_reducing_gradients(int bucket, int buffer) {
    view(gradients_of_unit_, bucket, reducing_offset(buffer));
  }

  // regions and buffers --------------------------------------------------------------------------

  /// A bucket's parameters, gradients in the first sum, or a shard of it.
  float* parameters(int bucket) {
    return floats(plan_.parameters.offset + 4 * layout_.start_of(bucket), elements(bucket));
  }
  float* parameter_shard(int bucket) {
    return floats(plan_.parameters.offset + 4 * shard_start(bucket), shard_elements(bucket));
  }
  float* gradients(int bucket) {
    return floats(sum_offset(0) + 4 * layout_.start_of(bucket), elements(bucket));
  }
  float* gradient_shard(int bucket, int sum = 0) {
    return floats(sum_offset(sum) + 4 * shard_start(bucket), shard_elements(bucket));
  }
  float* gathered(int bucket, int buffer) {
    return floats(gathered_offset(buffer), elements(bucket));
  }
  float* reducing(int bucket, int buffer) {
    return floats(reducing_offset(buffer), elements(bucket));
  }
  /// The gradients of whole units in one of the sums, as one stretch.
  float* unit_gradients(int first, int count, int sum) {
    const std::int64_t begin = start_of_unit(first);
    return floats(sum_offset(sum) + 4 * begin,
                  start_of_unit(first + count - 1) - begin + unit_size(first + count - 1));
  }
  /// Elements of such a stretch.
  std::int64_t units_size(int first, int count) const {
    return start_of_unit(first + count - 1) - start_of_unit(first) + unit_size(first + count - 1);
  }
  std::int64_t elements(int bucket) const { return layout_.buckets.rows[bucket].elements; }
  std::int64_t shard_elements(int bucket) const { return elements(bucket) / split.grid.data; }

  float* d_stream_in(int buffer) { return stream_buffer(communication_.d_stream_in, buffer); }
  float* d_stream_out(int buffer) { return stream_buffer(communication_.d_stream_out, buffer); }
  /// A bucket's gradients of norms side by side, while tensor ranks sum them.
  float* norms() {
    return floats(plan_.communication.offset + communication_.norms,
                  communication_.bucket_norms / 4);
  }

  /// Where a group's sums on a card keep what comes, and its size.
  std::pair<void*, bytes> summand(Group group) {
    const Region& r =
        group == Group::data ? communication_.data_summand : communication_.tensor_summand;
    return {arena_.at(plan_.communication.offset + r.offset, r.size), r.size};
  }

  /// The micro-batch buffers of one in flight; rows and sentences are 0 until someone fills them.
  BatchView batch(int slot = 0) {
    static constexpr BatchLayout layout = batch_layout(P::policy);
    return batch_at(arena_.at(plan_.batch.offset + slot * layout.size, layout.size), layout);
  }
  /// A part of what the optimizer has beside its moments.
  template <class T> T* optimizer(bytes offset, bytes size) {
    return reinterpret_cast<T*>(arena_.at(plan_.optimizer.offset + offset, size));
  }
  /// What a host tells a step; follows the micro-batches.
  StepNumbers* numbers() {
    return reinterpret_cast<StepNumbers*>(
        arena_.at(input().end() - Split::numbers, Split::numbers));
  }
  /// The micro-batches and the step's numbers: all that comes from a host.
  Region input() const {
    return {plan_.batch.offset,
            batches_held(policy, split, at_.pipeline) * batch_layout(policy).size + Split::numbers};
  }
  StepState* state() {
    return reinterpret_cast<StepState*>(arena_.at(input().end(), Split::state));
  }
  /// What a rank tells the others.
  Record* record(int rank) {
    return reinterpret_cast<Record*>(
        arena_.at(records().offset + rank * Split::record, Split::record));
  }
  Region records() const {
    const bytes size = Split::record * split.grid.ranks();
    return {plan_.batch.end() - round_up(size, tensor_alignment), size};
  }

  /// What a device's products and kernels may use within a call.
  void* scratch() { return arena_.at(plan_.scratch.offset, plan_.scratch.size); }

  // runs -----------------------------------------------------------------------------------------

  float* at(State state, const Run& run) {
    const Region& r = region(state);
    const bool shards = state == State::weight ? split.zero.stage == 3 : split.zero.stage >= 1;
    return floats(r.offset + 4 * (shards ? run.shard : run.whole), round_up(run.count, 16));
  }
  /// Its gradient, in the first sum.
  template <class G> G* gradient(const Run& run) {
    if (split.zero.stage < 2) return gradient<G>(run.parameter, run.layer) + run.first;
    return reinterpret_cast<G*>(floats(sum_offset(0) + 4 * run.shard, round_up(run.count, 16)));
  }

  /// Calls visit(Run) for what this rank has of a bucket, in the order of the flat vector: its
  /// shard, or all.
  template <class Visit> void each_run(int bucket, bool in_shard, Visit&& visit) const {
    const int shards = in_shard ? split.grid.data : 1;
    const std::int64_t size = elements(bucket) / shards, from = in_shard ? at_.data * size : 0;
    const Bucket& b = layout_.buckets.rows[bucket];
    for (int unit = b.first; unit < b.first + b.units; ++unit)
      for (int i = 0; i < graph.parameters.rows.size; ++i) {
        const Parameter& p = graph.parameters.rows[i];
        if (p.segment != segment_of(graph.parameters, unit)) continue;
        const std::int64_t start = start_of_unit(unit) - layout_.start_of(bucket) + p.offset;
        const std::int64_t begin = start > from ? start : from;
        std::int64_t end = start + p.elements();
        if (end > from + size) end = from + size;
        if (begin >= end) continue;
        visit(Run{.parameter = i,
                  .layer = unit == 0 ? 0 : unit - 1,
                  .first = begin - start,
                  .count = end - begin,
                  .whole = layout_.start_of(bucket) + begin,
                  .shard = layout_.start_of(bucket) / shards + begin - from});
      }
  }

 private:
  static constexpr int units = P::policy.model.layers + 2;

  static constexpr int unit_of(int index, int layer) {
    const Segment segment = graph.parameters.rows[index].segment;
    return segment == Segment::embedding ? 0 : segment == Segment::block ? 1 + layer : units - 1;
  }
  static constexpr std::int64_t unit_size(int unit) {
    return unit_elements(graph.parameters, segment_of(graph.parameters, unit));
  }
  std::int64_t start_of_unit(int unit) const {
    const int b = layout_.bucket_of(unit);
    return layout_.start_of(b) + offset_in_bucket(graph.parameters, layout_.buckets.rows[b], unit);
  }
  std::int64_t shard_start(int bucket) const { return layout_.start_of(bucket) / split.grid.data; }

  void view(bytes (&of_unit)[units], int bucket, bytes start) {
    const Bucket& b = layout_.buckets.rows[bucket];
    for (int unit = b.first; unit < b.first + b.units; ++unit, start += 4 * unit_size(unit - 1))
      of_unit[unit] = start;
  }

  float* floats(bytes offset, std::int64_t count) {
    return reinterpret_cast<float*>(arena_.at(offset, 4 * count));
  }
  bytes sum_offset(int sum) const {
    return plan_.gradients.offset + sum * (plan_.gradients.size / split.partial_sums());
  }
  bytes gathered_offset(int buffer) const {
    return plan_.communication.offset + communication_.gathered + buffer * communication_.bucket;
  }
  bytes reducing_offset(int buffer) const {
    return plan_.communication.offset + communication_.reducing + buffer * communication_.bucket;
  }
  float* stream_buffer(bytes first, int buffer) {
    return floats(plan_.communication.offset + first + buffer * communication_.stream,
                  communication_.stream / 4);
  }
  const Region& region(State state) const {
    switch (state) {
      case State::weight:
        return plan_.parameters;
      case State::first_moment:
        return plan_.first_moment;
      default:
        return plan_.second_moment;
    }
  }
  /// A block's copies follow each other in the order of its linear ops, all copies of one together.
  bytes copy_offset(int index, int block, int copies, bytes inside) const {
    bytes before = 0, all = 0;
    bool found = false;
    for (const Op& op : graph.forward_block.ops) {
      if (op.kind != OpKind::linear) continue;
      found = found || op.parameter == index;
      if (!found) before += bytes{op.out} * op.in;
      all += bytes{op.out} * op.in;
    }
    return plan_.weight_copies.offset + (block * all + before) * copies * bytes(sizeof(Compute)) +
           inside;
  }

  Coordinates at_;
  const MemoryPlan& plan_;
  const StageLayout& layout_;
  int first_layer_ = 0;
  Space arena_;
  CommunicationLayout communication_ = communication_layout(split, layout_);
  bytes weights_of_unit_[units]{}, gradients_of_unit_[units]{};  // where each is in view
  bytes gradients_ = 0;
  int slot_ = 0;
};

}  // namespace ctrain
