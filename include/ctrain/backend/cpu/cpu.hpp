/// \file  The backend of a host: oneDNN's products, vectorised kernels, OpenMP.   floor 5: backend
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/cpu/attention.hpp>
#include <ctrain/backend/cpu/gemm.hpp>
#include <ctrain/backend/cpu/rows.hpp>
#include <ctrain/backend/cpu/update.hpp>

namespace ctrain {

/// A call that has a kernel of its own.
template <class Call>
concept HasCpuKernel = requires(const Call& call, const cpu::Threads& threads) {
  cpu::compute(call, threads);
};

/// A call that is a matrix product, or prepares one.
template <class Call>
concept HasCpuProduct = requires(const Call& call, cpu::Products& products) {
  products.compute(call);
};

/// Models Backend. Not for two threads at once: give each its own. Results do not depend on the
/// number of workers where Products::ignores_thread_count().
struct Cpu {
  using LinearShape = cpu::LinearShape;

  /// `workers`: threads of every call. `library_bf16` false: bf16 products without oneDNN, as on a
  /// machine without AVX512_BF16.
  explicit Cpu(int workers = omp_get_max_threads(),
               bool library_bf16 = cpu::Products::machine_has_bf16())
      : threads_{std::max(1, workers)}, products_(threads_, library_bf16) {}

  /// How many attention workspaces run() uses at once.
  int workers() const { return threads_.count; }

  /// Makes the products of these layers at these row counts, so that the first step is like every
  /// other. Shapes that were not prepared are made when first asked for.
  template <class T>
  void prepare_shapes(std::span<const cpu::LinearShape> layers, std::span<const int> rows) {
    products_.prepare<T>(layers, rows);
  }

  template <HasCpuKernel Call> void run(const Call& call) { cpu::compute(call, threads_); }

  template <HasCpuProduct Call> void run(const Call& call) { products_.compute(call); }

 private:
  cpu::Threads threads_;
  cpu::Products products_;
};

static_assert(Backend<Cpu>);

}  // namespace ctrain
