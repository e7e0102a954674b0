/// \file  bf16 and fp16 as storage: exact widening, round-to-nearest-even narrowing.   floor 0: core
#pragma once

#include <ctrain/core/config.hpp>

#include <cstdint>

namespace ctrain {

// A device of this library (sm_80 and later) converts in one instruction, to the same bits; which
// NaN comes of a NaN is its own affair.

/// Element types a tensor can have. `fp32` also stands for the master copy of every parameter.
enum class DType : std::uint8_t { fp32, bf16, fp16, int32 };

constexpr int size_of(DType type) {
  return type == DType::fp32 || type == DType::int32 ? 4 : 2;
}

/// std::bit_cast for host and device code alike.
template <class To, class From> CTRAIN_HOST_DEVICE constexpr To bits_as(const From& value) {
  return __builtin_bit_cast(To, value);
}

/// The upper half of an IEEE binary32. Arithmetic happens in float; this type only stores.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  CTRAIN_HOST_DEVICE constexpr explicit bf16(float value) : bits(narrow(value)) {}
  CTRAIN_HOST_DEVICE constexpr operator float() const {
    return bits_as<float>(std::uint32_t{bits} << 16);
  }

  /// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
  CTRAIN_HOST_DEVICE static constexpr std::uint16_t narrow(float value) {
#ifdef __CUDA_ARCH__
    if (!__builtin_is_constant_evaluated()) return std::uint16_t(narrow_two(value, 0.0f));
#endif
    const std::uint32_t u = bits_as<std::uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return std::uint16_t((u >> 16) | 0x40u);
    return std::uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  /// Of neighbours in memory.
  CTRAIN_HOST_DEVICE static std::uint32_t narrow_two(float first, float second) {
#ifdef __CUDA_ARCH__
    std::uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
#else
    return narrow(first) | std::uint32_t{narrow(second)} << 16;
#endif
  }
};

/// IEEE binary16. Arithmetic happens in float; this type only stores.
struct fp16 {
  std::uint16_t bits = 0;

  fp16() = default;
  CTRAIN_HOST_DEVICE constexpr explicit fp16(float value) : bits(narrow(value)) {}
  CTRAIN_HOST_DEVICE constexpr operator float() const {
#ifdef __CUDA_ARCH__
    if (!__builtin_is_constant_evaluated()) {
      float value;
      asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
      return value;
    }
#endif
    const std::uint32_t sign = std::uint32_t(bits & 0x8000u) << 16;
    const std::uint32_t exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
    if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
      const float magnitude = float(mantissa) * 5.9604644775390625e-8f;
      return bits_as<float>(bits_as<std::uint32_t>(magnitude) | sign);
    }
    const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
    return bits_as<float>(sign | (wide << 23) | (mantissa << 13));
  }

  /// Round to nearest, ties to even; overflow becomes infinity, a NaN stays a (quiet) NaN.
  CTRAIN_HOST_DEVICE static constexpr std::uint16_t narrow(float value) {
#ifdef __CUDA_ARCH__
    if (!__builtin_is_constant_evaluated()) return std::uint16_t(narrow_two(value, 0.0f));
#endif
    const std::uint32_t u = bits_as<std::uint32_t>(value);
    const std::uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return std::uint16_t(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return std::uint16_t(sign | 0x7c00u);  // >= 65520
    if (magnitude < 0x38800000u) {                                       // below 2^-14: subnormal
      if (magnitude < 0x33000000u) return std::uint16_t(sign);           // below 2^-25
      const std::uint32_t shift = 126u - (magnitude >> 23);
      const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
      const std::uint32_t whole = mantissa >> shift, rest = mantissa & ((1u << shift) - 1u);
      const std::uint32_t half = 1u << (shift - 1u);
      return std::uint16_t(sign | (whole + (rest > half || (rest == half && (whole & 1u)))));
    }
    const std::uint32_t rebased = magnitude - 0x38000000u;
    return std::uint16_t(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
  }
  /// Of neighbours in memory.
  CTRAIN_HOST_DEVICE static std::uint32_t narrow_two(float first, float second) {
#ifdef __CUDA_ARCH__
    std::uint32_t bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
#else
    return narrow(first) | std::uint32_t{narrow(second)} << 16;
#endif
  }
};

/// The enumerator that names a storage type.
template <class T> inline constexpr DType dtype_of = DType::fp32;
template <> inline constexpr DType dtype_of<bf16> = DType::bf16;
template <> inline constexpr DType dtype_of<fp16> = DType::fp16;
template <> inline constexpr DType dtype_of<std::int32_t> = DType::int32;

/// A type of 16 bits that only stores: bf16 or fp16.
template <class T> inline constexpr bool is_half = false;
template <> inline constexpr bool is_half<bf16> = true;
template <> inline constexpr bool is_half<fp16> = true;
template <class T>
concept Half = is_half<T>;

/// The storage type that an enumerator names.
template <DType Type> struct StorageType { using type = float; };
template <> struct StorageType<DType::bf16> { using type = bf16; };
template <> struct StorageType<DType::fp16> { using type = fp16; };
template <> struct StorageType<DType::int32> { using type = std::int32_t; };
template <DType Type> using StorageOf = typename StorageType<Type>::type;

static_assert(float(bf16(1.0f)) == 1.0f && bf16(1.00390625f).bits == 0x3f80);  // tie to even
static_assert(bf16(1.01171875f).bits == 0x3f82);                               // tie to even, up
static_assert(fp16(65504.0f).bits == 0x7bff && fp16(65520.0f).bits == 0x7c00);
static_assert(fp16(5.9604644775390625e-8f).bits == 1 && float(fp16(-2.5f)) == -2.5f);
static_assert(fp16(6.103515625e-5f).bits == 0x0400);

}  // namespace ctrain
