/// \file  The backend of a host: products near its peak, vectorised kernels, OpenMP.   floor 5: backend
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/cpu/attention.hpp>
#include <ctrain/backend/cpu/library_products.hpp>
#include <ctrain/backend/cpu/mixed_products.hpp>
#include <ctrain/backend/cpu/panel_products.hpp>
#include <ctrain/backend/cpu/peak.hpp>
#include <ctrain/backend/cpu/row_programs.hpp>
#include <ctrain/backend/cpu/rows.hpp>
#include <ctrain/backend/cpu/update.hpp>

#include <type_traits>
#include <utility>

namespace ctrain {

/// A call that has a kernel of its own.
template <class Call>
concept HasCpuKernel = requires(const Call& call, const cpu::Threads& threads) {
  cpu::compute(call, threads);
};

/// A call that is a product, or prepares one.
template <class Call, class Products>
concept HasCpuProduct = requires(const Call& call, Products& products) {
  products.compute(call);
};

/// Models Backend. Not for two threads at once: give each its own. With PanelProducts results do
/// not depend on the number of workers, and run() allocates nothing once shapes are prepared.
template <class Products> class CpuWith {
 public:
  using LinearShape = cpu::LinearShape;
  static constexpr bool joins_calls = true;

  /// `workers`: threads of every call.
  explicit CpuWith(int workers = omp_get_max_threads())
      : threads_{std::max(1, workers)}, products_(threads_) {
    cpu::keep_workers_apart(threads_.count);
  }

  /// Products of one's own making, on as many threads as they use.
  CpuWith(int workers, Products products)
      : threads_{std::max(1, workers)}, products_(std::move(products)) {}

  /// How many attention workspaces run() uses at once.
  int workers() const { return threads_.count; }

  /// Readies the products of these layers at these row counts, so that the first step is like every
  /// other. What was not prepared is made ready when first asked for.
  template <class T>
  void prepare_shapes(std::span<const LinearShape> layers, std::span<const int> rows) {
    products_.template prepare<T>(layers, rows);
    cpu::touch_stacks(threads_.count);
  }

  /// Operations a second that this machine's threads can do on operands of a type, measured now.
  double measured_peak(DType operand) const { return cpu::measured_peak(operand, workers()); }

  template <HasCpuKernel Call> void run(const Call& call) { cpu::compute(call, threads_); }

  template <HasCpuProduct<Products> Call> void run(const Call& call) { products_.compute(call); }

 private:
  cpu::Threads threads_;
  Products products_;
};

/// The backend of this build: with AVX-512 its own products, which read weights in panels at 90 %
/// of the peak and more; with AVX2 those for 16 bits; all others oneDNN's.
using Cpu = CpuWith<std::conditional_t<
    !simd::native, cpu::LibraryProducts,
    std::conditional_t<(simd::tile_lanes > 1), cpu::PanelProducts, cpu::MixedProducts>>>;

static_assert(Backend<Cpu> && JoinsCalls<Cpu>);

}  // namespace ctrain
