/// \file  Addresses on a device through which a model streams: those of the unit at work.   floor 6: trainer
#pragma once

#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/calls.hpp>
#include <ctrain/memory/offload.hpp>
#include <ctrain/trainer/memory_map.hpp>

#include <cstddef>
#include <cstdint>

namespace ctrain {

/// What MemoryMap is for a resident model. Which buffers a compute job works in is set before it.
template <HasPolicy P> class StreamedMap {
 public:
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& graph = StreamOf<P>::graph;
  static constexpr const auto& units = StreamOf<P>::units;
  static constexpr const auto& plan = StreamOf<P>::plan;
  using Compute = StorageOf<P::policy.compute_type()>;
  using BlockGradient = StorageOf<storage_of(P::policy.precision.gradients)>;
  static_assert(P::policy.device.kind == DeviceKind::host,
                "a streamed step computes on a host: name a host_memory device");

  StreamedMap() : arena_(plan.device()) {}

  Arena& arena() { return arena_; }

  /// Buffers of the next ops; -1: none.
  void use(int weights, int gradients, int region, int sum = 0) {
    weights_ = weights, gradients_ = gradients, region_ = region, sum_ = sum;
  }
  /// How many rows of the word table this step reads.
  void use_word_rows(int count) { word_rows_ = count; }
  int word_rows() const { return word_rows_; }

  std::byte* weights(int buffer, int unit) {
    return arena_.base() + plan.weights.offset + weights_offset(buffer, unit);
  }
  std::byte* gradients(int buffer, int sum = 0) {
    return arena_.base() + plan.gradients.offset + buffer * plan.gradient_buffer +
           sum * plan.gradient_sum;
  }
  float* word_row_weights() { return floats(plan.word_rows); }
  float* word_row_gradients(int sum = 0) {
    return floats(plan.d_word_rows) + sum * plan.word_rows.size / bytes(sizeof(float));
  }
  std::byte* kept_in_region(int region) {
    return arena_.base() + plan.working.offset + region * plan.region + plan.slot_in_region;
  }
  std::byte* kept_by_embedding(int region) {
    return arena_.base() + plan.working.offset + region * plan.region;
  }
  std::byte* kept_on_device(int layer, int micro) {
    const int slot = layer * policy.batch.accumulation + micro;
    return arena_.base() + plan.device_kept.offset + slot * plan.slot;
  }
  std::byte* embedding_slot(int micro) {
    return arena_.base() + plan.embedding.offset + micro * plan.embedding_slot;
  }
  std::byte* stream(int micro) { return arena_.base() + plan.streams.offset + micro * plan.stream; }

  // what Dispatch asks for -----------------------------------------------------------------------

  float* weight(int index, int layer = 0) {
    if (index == StreamUnits::word_table) return word_row_weights();
    const int kind = units.kind_of_parameter(index);
    bytes offset = 0;
    for (int i = units.kinds.rows[kind].first; i < index; ++i)
      offset += device_bytes(graph.parameters.rows[i], policy);
    return reinterpret_cast<float*>(weights(weights_, unit_of(kind, layer)) + offset);
  }
  template <class T = float> T* gradient(int index, int = 0) {
    if (index == StreamUnits::word_table) return reinterpret_cast<T*>(word_row_gradients(sum_));
    const StreamUnit& unit = units.kinds.rows[units.kind_of_parameter(index)];
    const Parameter& p = graph.parameters.rows[index];
    return reinterpret_cast<T*>(gradients(gradients_, sum_) +
                                gradient_at(graph.parameters, policy, unit, p.offset - unit.start));
  }
  template <class T> T* tensor(Operand x, int layer) {
    const Tensor& t = graph.tensors[x.tensor];
    const bool next = t.is_stream && (x.shift == 1 || layer == policy.model.layers);
    const Placement& at =
        next ? plan.one_layer.stream_after_last : plan.one_layer.tensors[x.tensor];
    return reinterpret_cast<T*>(arena_.base() + plan.working.offset + region_ * plan.region +
                                at.offset - plan.one_layer.step.offset);
  }
  Weight<Compute> block_weight(int index, int layer, int out, int in) {
    Weight<Compute> w;
    w.master = weight(index, layer);
    w.out = out;
    w.in = in;
    return w;
  }
  /// The buffers of a micro-batch; rows and sentences are 0 until someone fills them.
  BatchView batch(int micro) {
    static constexpr BatchLayout layout = batch_layout(P::policy);
    return batch_at(arena_.base() + plan.batch.offset + micro * layout.size, layout);
  }

 private:
  static int unit_of(int kind, int layer) {
    const StreamUnit& unit = units.kinds.rows[kind];
    if (unit.segment == Segment::embedding) return kind;
    return unit.segment == Segment::head ? units.head() : units.block(layer, kind - 2);
  }
  /// Where all weights stay, a buffer is the unit's own place.
  static bytes weights_offset(int buffer, int unit) {
    if (!homes_of(P::policy).weights_stay_on_device) return buffer * plan.weight_buffer;
    bytes offset = 0, block = 0;
    for (int i = 0; i < units.stretches; ++i) block += units.of(units.block(0, i)).on_device;
    if (unit > StreamUnits::tables) offset = units.of(StreamUnits::tables).on_device;
    if (unit == units.head()) return offset + units.layers * block;
    if (unit <= StreamUnits::tables) return 0;
    offset += units.layer(unit) * block;
    for (int i = units.block(units.layer(unit), 0); i < unit; ++i) offset += units.of(i).on_device;
    return offset;
  }
  float* floats(const Region& r) { return reinterpret_cast<float*>(arena_.base() + r.offset); }

  Arena arena_;
  int weights_ = -1, gradients_ = -1, region_ = 0, sum_ = 0, word_rows_ = 0;
};

}  // namespace ctrain
