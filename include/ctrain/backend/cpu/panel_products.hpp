/// \file  Products of linear layers with AVX-512: weights in panels, or packed on the way.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/multiply.hpp>
#include <ctrain/backend/cpu/pack.hpp>
#include <ctrain/backend/cpu/plain_products.hpp>
#include <ctrain/backend/cpu/products.hpp>
#include <ctrain/backend/cpu/rows.hpp>
#include <ctrain/backend/cpu/threads.hpp>

#include <span>
#include <vector>

namespace ctrain::cpu {

/// Every product of a step. It allocates nothing once prepared, and the bits of a result do not
/// depend on threads, on the rows beside a row, or on how the weight is kept.
class PanelProducts {
 public:
  explicit PanelProducts(Threads threads) : threads_(threads) {}

  /// Takes the scratch memory that these layers need: a panel per worker, and the panels of a
  /// chunk of rows of x.
  template <class T> void prepare(std::span<const LinearShape> layers, std::span<const int> rows) {
    for (const LinearShape& layer : layers)
      for (int count : rows) {
        const int depth = std::min(count, depth_chunk<T>);
        panels_of<T>(std::max({layer.out, layer.in, depth}), layer.in, depth);
      }
  }

  template <class T> void compute(const PrepareWeight<T>& call) {
    if (call.forward && call.backward) {
      fill(call.forward, forward_operand(call.master, call.out, call.in));
      fill(call.backward, backward_operand(call.master, call.out, call.in));
    } else if (call.forward) {
      cpu::compute(CastForward<T>{call.forward, call.master, call.out, call.in}, threads_);
    }
  }

  template <class T> void compute(const LinearForward<T>& call) {
    const int out = call.weight.out, in = call.weight.in;
    if (in % Panels<T>::group != 0)
      return plain_forward(call, rows_of(call.weight, call.weight.forward), threads_);
    multiply(call.x, call.rows, call.weight, call.weight.forward,
             forward_operand(rows_of(call.weight, call.weight.forward), out, in),
             [&](int r, int c, simd::Lanes sum, auto some) {
               const simd::Lanes z = sum + simd::load(call.bias + c, some);
               simd::store(call.z + std::int64_t(r) * out + c, z, some);
             });
  }

  template <class T, class DX> void compute(const LinearBackwardInput<T, DX>& call) {
    const int out = call.weight.out, in = call.weight.in;
    const T* copy = call.weight.backward ? call.weight.backward : call.weight.forward;
    if (out % Panels<T>::group != 0)
      return plain_backward_input(call, rows_of(call.weight, copy), threads_);
    multiply(call.dz, call.rows, call.weight, copy,
             backward_operand(rows_of(call.weight, copy), out, in),
             [&](int r, int c, simd::Lanes sum, auto some) {
               put(call.dx + std::int64_t(r) * in + c, sum, call.accumulate_input, some);
             });
  }

  template <class T> void compute(const LinearBackwardWeight<T>& call) {
    column_sums(call.d_bias, call.dz, call.rows, call.out, call.accumulate, threads_);
    for (int first = 0; first < call.rows; first += depth_chunk<T>)
      add_weight_gradient(call, first, std::min(depth_chunk<T>, call.rows - first),
                          call.accumulate || first > 0);
  }

 private:
  /// Rows of x and dz that are packed at a time.
  template <class T> static constexpr int depth_chunk = chunk_groups* Panels<T>::group;

  /// W^T of a row-major (out, in) weight: depth in, width out.
  template <class T> static Operand<T> forward_operand(const T* weight, int out, int in) {
    return {weight, 1, in, in, out};
  }
  /// W: depth out, width in.
  template <class T> static Operand<T> backward_operand(const T* weight, int out, int in) {
    return {weight, in, 1, out, in};
  }

  /// The weight as rows, read where a direction has no panels.
  template <class T> static const T* rows_of(const Weight<T>& weight, const T* copy) {
    return row_major(weight, dtype_of<T> == DType::fp32 && weight.backward ? nullptr : copy);
  }

  /// One copy: panels where they take no more room than the weight, else row-major.
  template <class T> void fill(T* to, const Operand<float>& from) {
    if (Panels<T>{from.depth, from.width}.exact()) return pack<Use::later>(to, from, threads_);
    const bool transposed = from.column_step != 1;
    const int rows = transposed ? from.width : from.depth;
    const int columns = transposed ? from.depth : from.width;
    cpu::compute(CastForward<T>{to, from.first, rows, columns}, threads_);
  }

  /// A buffer in scratch: first a panel of `depth` for every worker, then the panels of an
  /// (shared_depth, shared_width) operand.
  template <class T> struct Scratch {
    T* shared = nullptr;
    T* workers = nullptr;
    std::int64_t worker_step = 0;

    T* worker(int i) const { return workers + i * worker_step; }
  };

  template <class T> Scratch<T> panels_of(int depth, int shared_width, int shared_depth) {
    const auto rounded = [](std::int64_t elements) { return (elements + 63) / 64 * 64; };
    const std::int64_t one = rounded(Panels<T>{depth, panel_columns}.elements());
    const std::int64_t shared =
        shared_width > 0 ? rounded(Panels<T>{shared_depth, shared_width}.elements()) : 0;
    const std::size_t bytes = std::size_t(one * threads_.count + shared) * sizeof(T);
    if (scratch_.size() * sizeof(CacheLine) < bytes)
      scratch_.resize((bytes + sizeof(CacheLine) - 1) / sizeof(CacheLine));
    T* start = reinterpret_cast<T*>(scratch_.data());
    return {start + one * threads_.count, start, one};
  }

  /// a (rows, depth) times the operand; `kept` are its panels if the weight has two copies.
  template <class T, class Finish>
  void multiply(const T* a, int rows, const Weight<T>& weight, const T* kept,
                const Operand<T>& operand, Finish&& finish) {
    const Panels<T> panels{operand.depth, operand.width};
    const bool packed = weight.forward && weight.backward && panels.exact();
    const int blocks = (rows + block_rows - 1) / block_rows;
    const int height = blocks == 0 ? 1 : (rows + blocks - 1) / blocks;
    const auto block = [&](const T* panel, int p, int b) {
      alignas(64) float sums[block_rows * panel_columns];
      const int first = b * height, count = std::min(height, rows - first);
      const FactorRows<T> from{a + std::int64_t(first) * operand.depth, operand.depth,
                               Panels<T>::group};
      multiply_block<T>({sums, panel_columns}, from, count, panel, panels.columns(p),
                        panels.groups());
      const int column = p * panel_columns;
      each_of_block(sums, count, std::min(panel_columns, operand.width - column),
                    [&](int r, int c, simd::Lanes sum, auto some) {
                      finish(first + r, column + c, sum, some);
                    });
    };
    if (packed) {
      threads_.each(std::int64_t(panels.count()) * blocks,
                    std::int64_t(rows) * operand.depth * operand.width, [&](std::int64_t i) {
                      const int p = int(i / blocks);
                      block(kept + p * panels.stride(), p, int(i % blocks));
                    });
    } else {
      const Scratch<T> scratch = panels_of<T>(operand.depth, 0, 0);
      threads_.each_by_worker(panels.count(), [&](std::int64_t p, int worker) {
        T* panel = scratch.worker(worker);
        pack_panel<Use::now>(panel, operand, int(p), 0, panels.groups() * panels.group);
        for (int b = 0; b < blocks; ++b) block(panel, int(p), b);
      });
    }
  }

  /// d_weight = or += dz^T x over some rows: x in panels, dz in panels of 64 outputs.
  template <class T>
  void add_weight_gradient(const LinearBackwardWeight<T>& call, int first, int rows, bool add) {
    const Scratch<T> scratch = panels_of<T>(rows, call.in, rows);
    const Operand<T> x{call.x + std::int64_t(first) * call.in, call.in, 1, rows, call.in};
    const Operand<T> dz{call.dz + std::int64_t(first) * call.out, call.out, 1, rows, call.out};
    pack<Use::now>(scratch.shared, x, threads_);
    const Panels<T> columns{rows, call.in}, outputs{rows, call.out};
    const bool stream = !add && std::int64_t(call.out) * call.in > (1 << 20);  // beyond the caches
    threads_.each_by_worker(outputs.count(), [&](std::int64_t panel, int worker) {
      T* a = scratch.worker(worker);
      pack_panel<Use::now>(a, dz, int(panel), 0, outputs.groups() * outputs.group);
      const int output = int(panel) * panel_columns;
      const FactorRows<T> from{a, outputs.group,
                               std::int64_t(outputs.columns(int(panel))) * outputs.group};
      for (int p = 0; p < columns.count(); ++p)
        weight_gradient_tile(call, from, output, scratch.shared + p * columns.stride(), p, columns,
                             Sums{nullptr, call.in, add, stream});
      simd::end_streaming();
    });
  }

  /// 64 outputs by 64 inputs of a weight's gradient.
  template <class T>
  static void weight_gradient_tile(const LinearBackwardWeight<T>& call, const FactorRows<T>& from,
                                   int output, const T* panel, int p, const Panels<T>& panels,
                                   Sums sums) {
    const int input = p * panel_columns;
    const int height = std::min(panel_columns, call.out - output);
    const int width = std::min(panel_columns, call.in - input);
    sums.first = call.d_weight + std::int64_t(output) * call.in + input;
    if (height == panel_columns && width == panel_columns)
      return multiply_in_place(sums, from, panel, panels.groups());
    alignas(64) float apart[(panel_columns + tile_height) * panel_columns];
    multiply_block<T>({apart, panel_columns}, from, height, panel, panels.columns(p),
                      panels.groups());
    each_of_block(apart, height, width, [&](int r, int c, simd::Lanes sum, auto some) {
      put(sums.first + r * sums.stride + c, sum, sums.add, some);
    });
  }

  Threads threads_;
  std::vector<CacheLine> scratch_;
};

}  // namespace ctrain::cpu
