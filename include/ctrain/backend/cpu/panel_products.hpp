/// \file  Products of linear layers with AVX-512 or AVX2: weights in panels, or packed on the way.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/direct_products.hpp>
#include <ctrain/backend/cpu/multiply.hpp>
#include <ctrain/backend/cpu/pack.hpp>
#include <ctrain/backend/cpu/products.hpp>
#include <ctrain/backend/cpu/rows.hpp>
#include <ctrain/backend/cpu/threads.hpp>
#include <ctrain/backend/cpu/update.hpp>
#include <ctrain/core/units.hpp>

#include <span>
#include <vector>

namespace ctrain::cpu {

/// Every product of a step. It allocates nothing once prepared, and the bits of a result do not
/// depend on threads, on the rows beside a row, or on how the weight is kept.
class PanelProducts {
 public:
  explicit PanelProducts(Threads threads) : threads_(threads), direct_(threads) {}

  /// Takes the scratch memory that these layers need at these row counts.
  template <class T> void prepare(std::span<const LinearShape> layers, std::span<const int> rows) {
    for (const LinearShape& layer : layers)
      for (int count : rows)
        scratch<T>(std::max({layer.out, layer.in, count}),
                   shared_for_gradient<T>(count, layer.out, layer.in));
  }

  /// Two copies: panels, each where its panels take no more room than the weight. One: rows.
  template <class T> void compute(const PrepareWeight<T>& call) {
    const int out = call.out, in = call.in;
    if (has_both_panels(call)) {
      BothPanels<T>{call.forward, call.backward, out, in}.pack(call.master, threads_);
    } else if (call.forward && call.backward) {
      fill(call.forward, forward_operand(call.master, out, in));
      fill(call.backward, backward_operand(call.master, out, in));
    } else if (call.forward) {
      cpu::compute(CastForward<T>{call.forward, call.master, out, in}, threads_);
    }
  }

  /// In one pass where both copies are panels and the rows whole tiles of them.
  template <class T, class G> void compute(const AdamWUpdateAndPrepare<T, G>& call) {
    const PrepareWeight<T>& to = call.prepare;
    if (has_both_panels(to) && call.rows.first % simd::width == 0 &&
        call.rows.count % simd::width == 0)
      return update_into_panels(call.update, BothPanels<T>{to.forward, to.backward, to.out, to.in},
                                to.master, call.rows, threads_);
    cpu::compute(call.update, threads_);
    if (call.is_last()) compute(to);
  }

  template <class T> void compute(const LinearForward<T>& call) {
    const int out = call.weight.out, in = call.weight.in;
    if (reads_rows(call.weight, Panels<T>{in, out}))
      return with_rows(call.weight, call.weight.forward,
                       [&](const auto* weight) { direct_.forward(call, weight); });
    multiply(
        call.x, call.rows, call.weight, call.weight.forward, Panels<T>{in, out},
        [&](const auto* weight) { return forward_operand(weight, out, in); },
        [&](int r, int c, simd::Lanes sum, auto some) {
          const simd::Lanes z = sum + bias_lanes(call.bias, c, some);
          simd::store(call.z + std::int64_t(r) * out + c, z, some);
        });
  }

  template <class T, class DX> void compute(const LinearBackwardInput<T, DX>& call) {
    const int out = call.weight.out, in = call.weight.in;
    const T* copy = call.weight.backward ? call.weight.backward : call.weight.forward;
    if (reads_rows(call.weight, Panels<T>{out, in}))
      return with_rows(call.weight, copy,
                       [&](const auto* weight) { direct_.backward_input(call, weight); });
    multiply(
        call.dz, call.rows, call.weight, copy, Panels<T>{out, in},
        [&](const auto* weight) { return backward_operand(weight, out, in); },
        [&](int r, int c, simd::Lanes sum, auto some) {
          put(call.dx + std::int64_t(r) * in + c, sum, call.accumulate_input, some);
        });
  }

  template <class T, class G> void compute(const LinearBackwardWeight<T, G>& call) {
    const Panels<T> panels{call.rows, call.in};
    const int step = gradient_panels<T>(call.rows, call.in);
    const Operand<T> dz{call.dz, call.out, 1, call.rows, call.out};
    const Scratch<T> scratch =
        this->scratch<T>(call.rows, shared_for_gradient<T>(call.rows, call.out, call.in));
    T* const shared_dz = scratch.shared() + step * panels.stride();
    const bool shares_dz = step < panels.count();
    if (shares_dz) pack<Use::now>(shared_dz, dz, threads_);
    for (int first = 0; first < panels.count(); first += step)
      weight_gradient(call, first * panel_columns,
                      std::min(step * panel_columns, call.in - first * panel_columns), scratch,
                      shares_dz ? shared_dz : nullptr);
  }

 private:
  template <class T> static bool has_both_panels(const PrepareWeight<T>& call) {
    return call.forward && call.backward && Panels<T>{call.in, call.out}.exact() &&
           Panels<T>{call.out, call.in}.exact();
  }
  /// Whether the weight comes in panels.
  template <class T> static bool in_panels(const Weight<T>& weight, const Panels<T>& panels) {
    return weight.forward && weight.backward && panels.exact();
  }
  template <class T> static bool reads_rows(const Weight<T>& weight, const Panels<T>& panels) {
    return !in_panels(weight, panels) && DirectProducts::serves<T>(weight.out, weight.in);
  }

  /// W^T of a row-major (out, in) weight: depth in, width out.
  template <class W> static Operand<W> forward_operand(const W* weight, int out, int in) {
    return {weight, 1, in, in, out};
  }
  /// W: depth out, width in.
  template <class W> static Operand<W> backward_operand(const W* weight, int out, int in) {
    return {weight, in, 1, out, in};
  }

  /// One copy: panels where they take no more room than the weight, else row-major.
  template <class T> void fill(T* to, const Operand<float>& from) {
    if (Panels<T>{from.depth, from.width}.exact()) return pack<Use::later>(to, from, threads_);
    const bool transposed = from.column_step != 1;
    const int rows = transposed ? from.width : from.depth;
    const int columns = transposed ? from.depth : from.width;
    cpu::compute(CastForward<T>{to, from.first, rows, columns}, threads_);
  }

  /// Scratch memory: two panels for every worker, and the panels of an operand that all share.
  template <class T> struct Scratch {
    T* first = nullptr;
    std::int64_t panel = 0;
    int workers = 0;

    T* of_worker(int i) const { return first + 2 * i * panel; }
    T* second_of_worker(int i) const { return of_worker(i) + panel; }
    T* shared() const { return of_worker(workers); }
  };

  template <class T> Scratch<T> scratch(int depth, std::int64_t shared) {
    const std::int64_t panel = (Panels<T>{depth, panel_columns}.elements() + 63) / 64 * 64;
    const std::int64_t all = 2 * panel * threads_.count + shared;
    const std::size_t lines = std::size_t(all) * sizeof(T) / sizeof(CacheLine) + 1;
    if (scratch_.size() < lines) scratch_.resize(lines);
    return {reinterpret_cast<T*>(scratch_.data()), panel, threads_.count};
  }

  /// a (rows, depth) times a weight. `kept`, if not null, is this direction's copy: panels where
  /// the weight has two and they fit, else rows. `operand` makes the operand from rows.
  template <class T, class MakeOperand, class Finish>
  void multiply(const T* a, int rows, const Weight<T>& weight, const T* kept,
                const Panels<T>& panels, MakeOperand&& operand, Finish&& finish) {
    if (in_panels(weight, panels))
      multiply_packed(a, rows, kept, panels, finish);
    else
      with_rows(weight, kept,
                [&](const auto* from) { multiply_packing(a, rows, operand(from), finish); });
  }

  template <class T, class Finish>
  void multiply_packed(const T* a, int rows, const T* kept, const Panels<T>& panels,
                       Finish&& finish) {
    const int blocks = (rows + block_rows - 1) / block_rows;
    const int height = (rows + blocks - 1) / std::max(1, blocks);
    threads_.each(std::int64_t(panels.count()) * blocks,
                  std::int64_t(rows) * panels.depth * panels.width, [&](std::int64_t i) {
                    const int p = int(i / blocks), first = int(i % blocks) * height;
                    finish_block(
                        {a + std::int64_t(first) * panels.depth, panels.depth, Panels<T>::group},
                        first, std::min(height, rows - first), kept + p * panels.stride(), p,
                        panels, finish);
                  });
  }

  /// Panels are packed one by one, as they are needed. Where rows of a end within a group, so are
  /// they, filled up with zeros.
  template <class T, class W, class Finish>
  void multiply_packing(const T* a, int rows, const Operand<W>& operand, Finish&& finish) {
    const Panels<T> panels{operand.depth, operand.width};
    const int depth = panels.groups() * panels.group, height = panel_columns;
    const Scratch<T> scratch = this->scratch<T>(operand.depth, 0);
    threads_.each_by_worker(panels.count(), std::int64_t(rows) * operand.depth * operand.width,
                            [&](std::int64_t p, int worker) {
                              T* const panel = scratch.of_worker(worker);
                              pack_panel<Use::now>(panel, operand, int(p), 0, depth);
                              for (int first = 0; first < rows; first += height) {
                                const int count = std::min(height, rows - first);
                                const T* const from = a + std::int64_t(first) * operand.depth;
                                FactorRows<T> factor{from, operand.depth, panels.group};
                                if (depth != operand.depth)
                                  factor = packed_rows(
                                      scratch.second_of_worker(worker),
                                      Operand<T>{from, 1, operand.depth, operand.depth, count});
                                finish_block(factor, first, count, panel, int(p), panels, finish);
                              }
                            });
  }

  /// At most 64 columns of an operand as the rows of a product.
  template <class T> static FactorRows<T> packed_rows(T* to, const Operand<T>& from, int p = 0) {
    const Panels<T> panels{from.depth, from.width};
    pack_panel<Use::now>(to, from, p, 0, panels.groups() * panels.group);
    return {to, panels.group, std::int64_t(panels.columns(p)) * panels.group};
  }

  /// finish(row, column, sums, All or Some) for the product of at most 96 rows with panel p.
  template <class T, class Finish>
  static void finish_block(const FactorRows<T>& a, int first, int count, const T* panel, int p,
                           const Panels<T>& panels, Finish&& finish) {
    alignas(64) float sums[block_rows * panel_columns];
    multiply_block<T>({sums, panel_columns}, a, count, panel, panels.columns(p), panels.groups());
    const int column = p * panel_columns;
    each_of_block(sums, count, std::min(panel_columns, panels.width - column),
                  [&](int r, int c, simd::Lanes sum, auto some) {
                    finish(first + r, column + c, sum, some);
                  });
  }

  /// How many panels of x are packed at a time: all of them up to chunk_groups of rows; of more
  /// rows that share of them, or what 2 MiB hold.
  template <class T> static int gradient_panels(int rows, int in) {
    const Panels<T> x{rows, in};
    const std::int64_t chunk = chunk_groups * Panels<T>::group;
    const std::int64_t share = x.count() * chunk / std::max<std::int64_t>(chunk, rows);
    const std::int64_t near = 2 * MiB / (std::max<std::int64_t>(1, x.stride()) * bytes(sizeof(T)));
    return int(std::clamp<std::int64_t>(std::max(share, near), 1, std::max(1, x.count())));
  }

  /// Elements of those, and of all panels of dz where x is not packed at once: then those are used
  /// more than once.
  template <class T> static std::int64_t shared_for_gradient(int rows, int out, int in) {
    const Panels<T> x{rows, in}, dz{rows, out};
    const int step = gradient_panels<T>(rows, in);
    return step * x.stride() + (step < x.count() ? dz.elements() : 0);
  }

  /// d_weight = or += dz^T x for columns [first, first + width) of x: those in panels, dz in panels
  /// of 64 outputs, which stand at `packed_dz` or are packed here.
  template <class T, class G>
  void weight_gradient(const LinearBackwardWeight<T, G>& call, int first, int width,
                       const Scratch<T>& scratch, const T* packed_dz) {
    const Operand<T> x{call.x + first, call.in, 1, call.rows, width};
    const Operand<T> dz{call.dz, call.out, 1, call.rows, call.out};
    pack<Use::now>(scratch.shared(), x, threads_);
    const Panels<T> columns{call.rows, width}, outputs{call.rows, call.out};
    threads_.each_by_worker(
        outputs.count(), std::int64_t(call.rows) * call.out * width,
        [&](std::int64_t p, int worker) {
          const int output = int(p) * panel_columns;
          if (first == 0)  // d_bias here, where dz is read anyway: one wait of all threads less
            sum_columns(call.d_bias, call.dz, call.rows, call.out, call.accumulate, output,
                        std::min(panel_columns, call.out - output));
          const FactorRows<T> from =
              packed_dz == nullptr
                  ? packed_rows(scratch.of_worker(worker), dz, int(p))
                  : FactorRows<T>{packed_dz + p * outputs.stride(), outputs.group,
                                  std::int64_t(outputs.columns(int(p))) * outputs.group};
          for (int c = 0; c < columns.count(); ++c)
            weight_gradient_tile(call, from, output, first + c * panel_columns,
                                 scratch.shared() + c * columns.stride(), columns, c);
          simd::end_streaming();
        });
  }

  /// 64 outputs by 64 inputs of a weight's gradient.
  template <class T, class G>
  static void weight_gradient_tile(const LinearBackwardWeight<T, G>& call,
                                   const FactorRows<T>& from, int output, int input, const T* panel,
                                   const Panels<T>& panels, int p) {
    const int height = std::min(panel_columns, call.out - output);
    const int width = std::min(panel_columns, call.in - input);
    G* const to = call.d_weight + std::int64_t(output) * call.in + input;
    const bool whole = height == panel_columns && width == panel_columns;
    const bool stream = !call.accumulate && std::int64_t(call.out) * call.in > (1 << 20);
    if constexpr (dtype_of<G> == DType::fp32)
      if (whole)
        return multiply_in_place(Sums{to, call.in, call.accumulate, stream}, from, panel,
                                 panels.groups());
    alignas(64) float apart[(panel_columns + tile_height) * panel_columns];
    multiply_block<T>({apart, panel_columns}, from, height, panel, panels.columns(p),
                      panels.groups());
    if constexpr (Half<G>)
      if (whole && stream) return stream_tile(to, call.in, apart);
    each_of_block(apart, height, width, [&](int r, int c, simd::Lanes sum, auto some) {
      put(to + std::int64_t(r) * call.in + c, sum, call.accumulate, some);
    });
  }

  /// A (64, 64) tile of sums to rows of 16-bit numbers, past the caches.
  template <Half G> static void stream_tile(G* to, std::int64_t stride, const float* sums) {
    for (int r = 0; r < panel_columns; ++r)
      for (int c = 0; c < panel_columns; c += 2 * simd::width) {
        const float* const from = sums + r * panel_columns + c;
        simd::stream(to + r * stride + c, simd::load(from, simd::All{}),
                     simd::load(from + simd::width, simd::All{}));
      }
  }

  Threads threads_;
  DirectProducts direct_;
  std::vector<CacheLine> scratch_;
};

}  // namespace ctrain::cpu
