/// \file  Matrix products on a device by cuBLASLt, one algorithm per shape.   floor 5: backend
#pragma once

#include <ctrain/backend/cuda/launch.cuh>
#include <ctrain/backend/cuda/product_shapes.hpp>
#include <ctrain/backend/cuda/status.hpp>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <type_traits>

namespace ctrain::cuda {

// vocabulary --------------------------------------------------------------------------------------

constexpr cudaDataType data_type(DType type) {
  return type == DType::bf16 ? CUDA_R_16BF : type == DType::fp16 ? CUDA_R_16F : CUDA_R_32F;
}

/// What is handed back when its owner goes.
template <class Handle, cublasStatus_t (*Destroy)(Handle)> struct Destroyer {
  using pointer = Handle;
  void operator()(Handle handle) const { Destroy(handle); }
};
template <class Handle, cublasStatus_t (*Destroy)(Handle)>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroyer<Handle, Destroy>>;

using Library = Owned<cublasLtHandle_t, cublasLtDestroy>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// the products ------------------------------------------------------------------------------------

/// Chooses by the library's heuristic when a shape is prepared, or first met, and keeps the choice:
/// the same shape gives the same bits. Sums are in fp32.
class Products {
 public:
  explicit Products(const DeviceStream& stream) : stream_(stream) {
    cublasLtHandle_t handle = nullptr;
    check(cublasLtCreate(&handle), "cublasLtCreate");
    library_.reset(handle);
  }

  /// fp32 operands are rounded to 10 bits of mantissa, which tensor cores take, in all products
  /// from now on.
  void use_tf32(bool yes) {
    if (yes != tf32_) prepared_.clear();
    tf32_ = yes;
  }

  /// False, and nothing done, where the library has no kernel for the shape.
  bool try_to_run(const ProductShape& shape, const ProductOperands& on) {
    if (shape.m == 0 || shape.n == 0) return true;
    const Prepared& with = prepared(shape, on);
    if (!with.is_offered) return false;
    point(with.description, shape.epilogue, on);
    const float alpha = 1, beta = shape.accumulate ? 1 : 0;
    check(cublasLtMatmul(library_.get(), with.description.get(), &alpha, on.a, with.a.get(), on.b,
                         with.b.get(), &beta, on.d, with.d.get(), on.d, with.d.get(),
                         &with.algorithm, stream_.products_workspace(),
                         std::size_t(library_workspace), stream_.handle()),
          "cublasLtMatmul");
    return true;
  }
  void run(const ProductShape& shape, const ProductOperands& on) {
    if (!try_to_run(shape, on)) check(CUBLAS_STATUS_NOT_SUPPORTED, "choice of an algorithm");
  }

  /// Chooses now, so that no step does.
  void prepare(const ProductShape& shape) {
    // Only whether there are operands counts, and how they are aligned.
    void* const some = stream_.products_workspace();
    if (shape.m > 0 && shape.n > 0) prepared(shape, {some, some, some, some, some});
  }

  /// How many shapes were prepared or met so far.
  std::size_t shapes() const { return prepared_.size(); }

 private:
  struct Prepared {
    Description description;
    Layout a, b, d;
    cublasLtMatmulAlgo_t algorithm{};
    bool is_offered = false;
  };

  const Prepared& prepared(const ProductShape& shape, const ProductOperands& on) {
    const auto found = prepared_.find(shape);
    return found != prepared_.end() ? found->second
                                    : prepared_.emplace(shape, prepare(shape, on)).first->second;
  }

  Prepared prepare(const ProductShape& s, const ProductOperands& on) const {
    Prepared p;
    p.description = describe(s);
    point(p.description, s.epilogue, on);  // the heuristic looks at the pointers' presence
    p.a = lay_out(data_type(s.operand), s.transpose_a ? s.k : s.m, s.transpose_a ? s.m : s.k);
    p.b = lay_out(data_type(s.operand), s.transpose_b ? s.n : s.k, s.transpose_b ? s.k : s.n);
    p.d = lay_out(data_type(s.result), s.m, s.n);
    choose(p);
    return p;
  }

  Description describe(const ProductShape& s) const {
    const cublasComputeType_t compute =
        s.operand == DType::fp32 && tf32_ ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cublasLtMatmulDesc_t handle = nullptr;
    check(cublasLtMatmulDescCreate(&handle, compute, CUDA_R_32F), "cublasLtMatmulDescCreate");
    Description description(handle);
    set(description, CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(description, CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(s.epilogue));
    if (has_aux(s.epilogue))
      set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int64_t{s.m});
    return description;
  }

  static cublasLtEpilogue_t epilogue_of(Epilogue e) {
    switch (e) {
      case Epilogue::bias:
        return CUBLASLT_EPILOGUE_BIAS;
      case Epilogue::bias_gelu:
        return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
      case Epilogue::gelu_slope:
        return CUBLASLT_EPILOGUE_DGELU;
      case Epilogue::sums_of_b:
        return CUBLASLT_EPILOGUE_BGRADB;
      default:
        return CUBLASLT_EPILOGUE_DEFAULT;
    }
  }
  static bool has_aux(Epilogue e) { return e == Epilogue::bias_gelu || e == Epilogue::gelu_slope; }
  static void point(const Description& at, Epilogue e, const ProductOperands& on) {
    if (e != Epilogue::none && e != Epilogue::gelu_slope)
      set(at, CUBLASLT_MATMUL_DESC_BIAS_POINTER, on.bias);
    if (has_aux(e)) set(at, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, on.aux);
  }

  static Layout lay_out(cudaDataType type, int rows, int cols) {
    cublasLtMatrixLayout_t handle = nullptr;
    check(cublasLtMatrixLayoutCreate(&handle, type, std::uint64_t(rows), std::uint64_t(cols), rows),
          "cublasLtMatrixLayoutCreate");
    return Layout(handle);
  }

  void choose(Prepared& p) const {
    cublasLtMatmulPreference_t handle = nullptr;
    check(cublasLtMatmulPreferenceCreate(&handle), "cublasLtMatmulPreferenceCreate");
    const Preference preference(handle);
    prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::size_t(library_workspace));
    for (const auto operand :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(preference, operand, std::uint32_t(alignment));
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(library_.get(), p.description.get(), p.a.get(), p.b.get(),
                                       p.d.get(), p.d.get(), preference.get(), 1, &result, &found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "cublasLtMatmulAlgoGetHeuristic");
    p.is_offered =
        status == CUBLAS_STATUS_SUCCESS && found == 1 && result.state == CUBLAS_STATUS_SUCCESS;
    p.algorithm = result.algo;
  }

  template <class V>
  static void set(const Description& of, cublasLtMatmulDescAttributes_t which, V value) {
    check(cublasLtMatmulDescSetAttribute(of.get(), which, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }
  template <class V>
  static void prefer(const Preference& of, cublasLtMatmulPreferenceAttributes_t which, V value) {
    check(cublasLtMatmulPreferenceSetAttribute(of.get(), which, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  }

  static constexpr int alignment = 16;  // of every tensor of a plan, at least

  const DeviceStream& stream_;
  bool tf32_ = false;
  Library library_;
  std::map<ProductShape, Prepared> prepared_;
};

}  // namespace ctrain::cuda
