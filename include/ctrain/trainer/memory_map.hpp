/// \file  Plan and arena together: the address of every parameter, state and activation.   floor 6: trainer
#pragma once

#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/calls.hpp>
#include <ctrain/memory/budget.hpp>

#include <cstdint>
#include <string>
#include <type_traits>

namespace ctrain {

/// What is kept in fp32 for every element of the flat parameter vector.
enum class State : std::uint8_t { weight, first_moment, second_moment };

/// Typed addresses inside the arena of P's plan. `layer` is the block an op runs for.
template <HasPolicy P, class Space = Arena> class MemoryMap {
 public:
  // auto: nvcc 13 takes a named type for a second initialisation
  static constexpr const auto& policy = P::policy;
  static constexpr const auto& graph = GraphOf<P>::graph;
  static constexpr const auto& plan = PlanOf<P>::plan;
  using Compute = std::conditional_t<P::policy.compute_type() == DType::bf16, bf16, float>;

  using BlockGradient =
      std::conditional_t<P::policy.precision.gradients == ctrain::Compute::bf16, bf16, float>;

  MemoryMap() : arena_(plan.arena()) {}

  Space& arena() { return arena_; }

  /// First element of a parameter's gradient, whose type is gradient_type(); T must be that.
  template <class T = float> T* gradient(int index, int layer = 0) {
    const Parameter& p = graph.parameters.rows[index];
    const bytes from =
        plan.gradients.offset + gradient_offset(graph.parameters, policy, index, layer);
    return reinterpret_cast<T*>(arena_.at(
        from, round_up(p.elements() * size_of(gradient_type(p, policy)), tensor_alignment)));
  }

  /// First element of a parameter's weight or moment.
  float* parameter(State state, int index, int layer = 0) {
    const Region& r = region(state);
    const bytes from = r.offset + 4 * graph.parameters.position(index, layer);
    return reinterpret_cast<float*>(
        arena_.at(from, 4 * round_up(graph.parameters.rows[index].elements(), 16)));
  }

  /// An activation or its gradient.
  template <class T> T* tensor(Operand x, int layer) {
    const Tensor& t = graph.tensors[x.tensor];
    const Placement& p = plan.tensors[x.tensor];
    const int instance = t.is_stream ? layer + x.shift : layer;
    const bytes offset = p.offset + (p.per_block ? instance * plan.slot : 0);
    return reinterpret_cast<T*>(arena_.at(offset, p.size));
  }

  /// A block's matrix with its copies. `index` is the first of the parameters that make it up.
  Weight<Compute> block_weight(int index, int layer, int out, int in) {
    Weight<Compute> w;
    w.master = parameter(State::weight, index, layer);
    w.out = out;
    w.in = in;
    constexpr int copies = copies_of_weights(P::policy);
    const bytes size = bytes{out} * in * bytes(sizeof(Compute));
    for (int copy = 0; copy < copies; ++copy) {
      auto* at = reinterpret_cast<Compute*>(
          arena_.at(copy_offset(index, layer, copies, copy * size), size));
      (copy == 0 ? w.forward : w.backward) = at;
    }
    return w;
  }

  /// The micro-batch buffers; rows and sentences are 0 until someone fills them.
  BatchView batch() {
    static constexpr BatchLayout layout = batch_layout(P::policy);
    arena_.at(plan.batch.offset, plan.batch.size);
    const auto at = [&]<class T>(T*& field, bytes offset) {
      field = reinterpret_cast<T*>(arena_.base() + plan.batch.offset + offset);
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
  ExactSum* sum_of_squares() {
    static constexpr BatchLayout layout = batch_layout(P::policy);
    return reinterpret_cast<ExactSum*>(
        arena_.at(plan.batch.offset + layout.scalars, sizeof(ExactSum)));
  }

 private:
  static constexpr const Region& region(State state) {
    switch (state) {
      case State::weight:
        return plan.parameters;
      case State::first_moment:
        return plan.first_moment;
      default:
        return plan.second_moment;
    }
  }
  /// A block's copies follow each other in the order of its linear ops, all copies of one together.
  static constexpr bytes copy_offset(int index, int layer, int copies, bytes inside) {
    bytes before = 0;
    for (int i = 0; i < graph.forward_block.ops.size; ++i) {
      const Op& op = graph.forward_block.ops.rows[i];
      if (op.kind != OpKind::linear) continue;
      if (op.parameter == index) break;
      before += bytes{op.out} * op.in;
    }
    const bytes block = block_matrix_elements(P::policy.model) * copies * bytes(sizeof(Compute));
    return plan.weight_copies.offset + layer * block + before * copies * bytes(sizeof(Compute)) +
           inside;
  }

  Space arena_;
};

}  // namespace ctrain
