/// \file  Matrix products as a device's library takes them: shapes, epilogues, and the calls they come from.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/core/floating.hpp>

#include <compare>
#include <cstdint>
#include <type_traits>

namespace ctrain::cuda {

// vocabulary --------------------------------------------------------------------------------------

/// What a product does on the way to D besides the product itself, in the library's own kernel.
/// `bias`: D += bias (m), a number for each row of D. `bias_gelu`: aux = D + bias, D = gelu(aux).
/// `gelu_slope`: D = D * gelu'(aux). GELU is the tanh form. `sums_of_b`: bias (n) = sums of op(B)'s
/// columns.
enum class Epilogue : std::uint8_t { none, bias, bias_gelu, gelu_slope, sums_of_b };

/// D (m, n) = op(A) (m, k) op(B) (k, n), or plus D: column-major and dense, as the library thinks.
/// A row-major (rows, cols) matrix is its column-major (cols, rows).
struct ProductShape {
  int m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  DType operand = DType::fp32, result = DType::fp32;
  Epilogue epilogue = Epilogue::none;
  bool accumulate = false;

  friend auto operator<=>(const ProductShape&, const ProductShape&) = default;
};

/// Device addresses. `bias` and `aux` (m, n) as the epilogue has them.
struct ProductOperands {
  const void* a = nullptr;
  const void* b = nullptr;
  void* d = nullptr;
  const void* bias = nullptr;
  const void* aux = nullptr;
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

/// z^T (out, rows) = W x^T + bias.
template <class T> ProductShape shape_of(const LinearForward<T>& call) {
  return {
      call.weight.out, call.rows,   call.weight.in, true,
      false,           dtype_of<T>, dtype_of<T>,    call.bias ? Epilogue::bias : Epilogue::none};
}

/// dx^T (in, rows) (+)= W^T dz^T.
template <class T, class DX> ProductShape shape_of(const LinearBackwardInput<T, DX>& call) {
  return {call.weight.in, call.rows,      call.weight.out,      false, false, dtype_of<T>,
          dtype_of<DX>,   Epilogue::none, call.accumulate_input};
}

/// d_weight^T (in, out) (+)= x^T dz.
template <class T, class G> ProductShape shape_of(const LinearBackwardWeight<T, G>& call) {
  return {call.in,     call.out,    call.rows,      false,          true,
          dtype_of<T>, dtype_of<G>, Epilogue::none, call.accumulate};
}

}  // namespace ctrain::cuda
