/// \file  Matrix products on a device by cuBLASLt, one algorithm per shape.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/status.hpp>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <compare>
#include <map>
#include <memory>
#include <type_traits>

namespace ctrain::cuda {

// vocabulary --------------------------------------------------------------------------------------

/// D (m, n) = op(A) (m, k) op(B) (k, n), plus D or a bias (m): column-major and dense, as the
/// library thinks. A row-major (rows, cols) matrix is its column-major (cols, rows).
struct ProductShape {
  int m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  cudaDataType operand = CUDA_R_32F, result = CUDA_R_32F;
  bool bias = false, accumulate = false;

  friend auto operator<=>(const ProductShape&, const ProductShape&) = default;
};

template <class T> inline constexpr cudaDataType data_type_of = CUDA_R_32F;
template <> inline constexpr cudaDataType data_type_of<bf16> = CUDA_R_16BF;
template <> inline constexpr cudaDataType data_type_of<fp16> = CUDA_R_16F;

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

/// Chooses by the library's heuristic when a shape is first met, and keeps the choice: the same
/// shape gives the same bits. Sums are in fp32.
class Products {
 public:
  /// What NVIDIA recommends for Hopper.
  static constexpr bytes workspace_bytes = 32 * MiB;

  /// `tf32`: fp32 operands are rounded to 10 bits of mantissa, which tensor cores take.
  Products(cudaStream_t stream, bool tf32) : stream_(stream), tf32_(tf32) {
    cublasLtHandle_t handle = nullptr;
    check(cublasLtCreate(&handle), "cublasLtCreate");
    library_.reset(handle);
    check(cudaMalloc(&workspace_, workspace_bytes), "cudaMalloc");
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;
  ~Products() { cudaFree(workspace_); }

  void run(const ProductShape& shape, const void* a, const void* b, void* d,
           const void* bias = nullptr) {
    if (shape.m == 0 || shape.n == 0) return;
    const Prepared& with = prepared(shape);
    if (shape.bias) set(with.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    const float alpha = 1, beta = shape.accumulate ? 1 : 0;
    check(cublasLtMatmul(library_.get(), with.description.get(), &alpha, a, with.a.get(), b,
                         with.b.get(), &beta, d, with.d.get(), d, with.d.get(), &with.algorithm,
                         workspace_, std::size_t(workspace_bytes), stream_),
          "cublasLtMatmul");
  }

  /// How many shapes were met so far.
  std::size_t shapes() const { return prepared_.size(); }

 private:
  struct Prepared {
    Description description;
    Layout a, b, d;
    cublasLtMatmulAlgo_t algorithm{};
  };

  const Prepared& prepared(const ProductShape& shape) {
    const auto found = prepared_.find(shape);
    return found != prepared_.end() ? found->second
                                    : prepared_.emplace(shape, prepare(shape)).first->second;
  }

  Prepared prepare(const ProductShape& s) const {
    Prepared p;
    p.description = describe(s);
    p.a = lay_out(s.operand, s.transpose_a ? s.k : s.m, s.transpose_a ? s.m : s.k);
    p.b = lay_out(s.operand, s.transpose_b ? s.n : s.k, s.transpose_b ? s.k : s.n);
    p.d = lay_out(s.result, s.m, s.n);
    p.algorithm = choose(p);
    return p;
  }

  Description describe(const ProductShape& s) const {
    const cublasComputeType_t compute =
        s.operand == CUDA_R_32F && tf32_ ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cublasLtMatmulDesc_t handle = nullptr;
    check(cublasLtMatmulDescCreate(&handle, compute, CUDA_R_32F), "cublasLtMatmulDescCreate");
    Description description(handle);
    set(description, CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(description, CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (s.bias) set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    return description;
  }

  static Layout lay_out(cudaDataType type, int rows, int cols) {
    cublasLtMatrixLayout_t handle = nullptr;
    check(cublasLtMatrixLayoutCreate(&handle, type, std::uint64_t(rows), std::uint64_t(cols), rows),
          "cublasLtMatrixLayoutCreate");
    return Layout(handle);
  }

  cublasLtMatmulAlgo_t choose(const Prepared& p) const {
    cublasLtMatmulPreference_t handle = nullptr;
    check(cublasLtMatmulPreferenceCreate(&handle), "cublasLtMatmulPreferenceCreate");
    const Preference preference(handle);
    prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::size_t(workspace_bytes));
    for (const auto operand :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(preference, operand, std::uint32_t(alignment));
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    check(
        cublasLtMatmulAlgoGetHeuristic(library_.get(), p.description.get(), p.a.get(), p.b.get(),
                                       p.d.get(), p.d.get(), preference.get(), 1, &result, &found),
        "cublasLtMatmulAlgoGetHeuristic");
    check(found == 1 ? result.state : CUBLAS_STATUS_NOT_SUPPORTED, "choice of an algorithm");
    return result.algo;
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

  cudaStream_t stream_;
  bool tf32_;
  Library library_;
  void* workspace_ = nullptr;
  std::map<ProductShape, Prepared> prepared_;
};

// from calls to products --------------------------------------------------------------------------

/// The matrix a product reads: the fp32 master, or the row-major copy in T.
template <class T> const void* operand_of(const Weight<T>& weight) {
  if constexpr (std::is_same_v<T, float>)
    return weight.master;
  else if (weight.forward != nullptr)
    return weight.forward;
  else
    throw Error("CUDA", "a product of 16-bit operands has no copy of its weight",
                "Plan weight copies: set precision.compute = bf16 or fp16 in the policy");
}

/// z^T (out, rows) = W x^T.
template <class T> ProductShape shape_of(const LinearForward<T>& call) {
  return {call.weight.out, call.rows,       call.weight.in,  true, false,
          data_type_of<T>, data_type_of<T>, true /* bias */, false};
}

/// dx^T (in, rows) (+)= W^T dz^T.
template <class T, class DX> ProductShape shape_of(const LinearBackwardInput<T, DX>& call) {
  return {call.weight.in,   call.rows, call.weight.out,      false, false, data_type_of<T>,
          data_type_of<DX>, false,     call.accumulate_input};
}

/// d_weight^T (in, out) (+)= x^T dz.
template <class T, class G> ProductShape shape_of(const LinearBackwardWeight<T, G>& call) {
  return {call.in,         call.out,        call.rows, false,          true,
          data_type_of<T>, data_type_of<G>, false,     call.accumulate};
}

}  // namespace ctrain::cuda
