/// \file  Sixteen floats in one register of AVX-512; empty where the compiler does not have it.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd_base.hpp>
#include <ctrain/core/floating.hpp>

#include <cstdint>
#include <type_traits>

#if defined(__AVX512F__) && defined(__AVX512BW__) && !defined(__CUDACC__)
#include <immintrin.h>

namespace ctrain::simd {

/// Whether kernels written in lanes are near the machine's peak.
inline constexpr bool native = true;
/// Lanes side by side in a tile of sums: with 6 rows, 24 of the 32 registers.
inline constexpr int tile_lanes = 4;

struct Mask {
  __mmask16 bits;
};

/// 16 floats.
struct Lanes {
  __m512 value;
  Lanes() = default;
  CTRAIN_INLINE Lanes(__m512 all) : value(all) {}
  CTRAIN_INLINE Lanes(float each) : value(_mm512_set1_ps(each)) {}
};

CTRAIN_INLINE Lanes operator+(Lanes a, Lanes b) {
  return _mm512_add_ps(a.value, b.value);
}
CTRAIN_INLINE Lanes operator-(Lanes a, Lanes b) {
  return _mm512_sub_ps(a.value, b.value);
}
CTRAIN_INLINE Lanes operator*(Lanes a, Lanes b) {
  return _mm512_mul_ps(a.value, b.value);
}
CTRAIN_INLINE Lanes operator/(Lanes a, Lanes b) {
  return _mm512_div_ps(a.value, b.value);
}
CTRAIN_INLINE Mask operator<(Lanes a, Lanes b) {
  return {_mm512_cmp_ps_mask(a.value, b.value, _CMP_LT_OQ)};
}

/// a * b + c, rounded once.
CTRAIN_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return _mm512_fmadd_ps(a.value, b.value, c.value);
}
/// The larger; b where either is NaN.
CTRAIN_INLINE Lanes larger(Lanes a, Lanes b) {
  return _mm512_maskz_max_ps(0xffff, a.value, b.value);
}
CTRAIN_INLINE Lanes smaller(Lanes a, Lanes b) {
  return _mm512_maskz_min_ps(0xffff, a.value, b.value);
}
CTRAIN_INLINE Lanes square_root(Lanes a) {
  return _mm512_maskz_sqrt_ps(0xffff, a.value);
}
CTRAIN_INLINE Lanes select(Mask take, Lanes yes, Lanes no) {
  return _mm512_mask_blend_ps(take.bits, no.value, yes.value);
}
CTRAIN_INLINE Lanes round_to_integer(Lanes a) {
  return _mm512_maskz_roundscale_ps(0xffff, a.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// a * 2^n, n whole.
CTRAIN_INLINE Lanes times_power_of_two(Lanes a, Lanes n) {
  return _mm512_maskz_scalef_ps(0xffff, a.value, n.value);
}
CTRAIN_INLINE Lanes magnitude(Lanes a) {
  return _mm512_abs_ps(a.value);
}
/// |a| with the sign of b.
CTRAIN_INLINE Lanes with_sign(Lanes a, Lanes b) {
  const __m512i sign = _mm512_set1_epi32(std::int32_t(0x80000000u));
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(sign, _mm512_castps_si512(b.value),
                                                       _mm512_castps_si512(a.value), 0xCA));
}

CTRAIN_INLINE __mmask16 touched(All) {
  return 0xffff;
}
CTRAIN_INLINE __mmask16 touched(Some some) {
  return __mmask16((1u << some.count) - 1u);
}

CTRAIN_INLINE Lanes load(const float* from, All) {
  return _mm512_loadu_ps(from);
}
CTRAIN_INLINE Lanes load(const float* from, Some some) {
  return _mm512_maskz_loadu_ps(touched(some), from);
}
CTRAIN_INLINE void store(float* to, Lanes a, All) {
  _mm512_storeu_ps(to, a.value);
}
CTRAIN_INLINE void store(float* to, Lanes a, Some some) {
  _mm512_mask_storeu_ps(to, touched(some), a.value);
}

/// 16 words of 32 bits (or some, then 0) of any type, to be moved and stored again.
CTRAIN_INLINE Lanes load_words(const void* from, All) {
  return _mm512_castsi512_ps(_mm512_loadu_si512(from));
}
CTRAIN_INLINE Lanes load_words(const void* from, Some some) {
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(touched(some), from));
}
CTRAIN_INLINE void store_words(void* to, Lanes words) {
  _mm512_storeu_si512(to, _mm512_castps_si512(words.value));
}

/// 16 numbers of a type of 16 bits.
template <Half T> CTRAIN_INLINE Lanes widen(__m256i halves) {
  if constexpr (dtype_of<T> == DType::fp16) return _mm512_maskz_cvtph_ps(0xffff, halves);
  return _mm512_castsi512_ps(
      _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, halves), 16));
}
template <Half T> CTRAIN_INLINE Lanes load(const T* from, All) {
  return widen<T>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
template <Half T> CTRAIN_INLINE Lanes load(const T* from, Some some) {
#if defined(__AVX512VL__)
  return widen<T>(_mm256_maskz_loadu_epi16(touched(some), from));
#else
  alignas(32) T copy[width] = {};
  for (int i = 0; i < some.count; ++i) copy[i] = from[i];
  return load(copy, All{});
#endif
}

/// The bits of T(a), as 16 halves. With AVX512_BF16 subnormal results in bf16 become 0, as they do
/// in that unit's products; else bit for bit what core/floating.hpp defines, but for the payload of
/// a NaN.
template <Half T> CTRAIN_INLINE __m256i narrow(Lanes a) {
  if constexpr (dtype_of<T> == DType::fp16)
    return _mm512_maskz_cvtps_ph(0xffff, a.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#if defined(__AVX512BF16__)
  return (__m256i)_mm512_cvtneps_pbh(a.value);
#else
  const __m512i u = _mm512_castps_si512(a.value), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_maskz_srli_epi32(0xffff, u, 16), one);
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.value, a.value, _CMP_UNORD_Q);
  const __m512i bits = _mm512_mask_blend_epi32(nan, rounded, quiet);
  return _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_maskz_srli_epi32(0xffff, bits, 16));
#endif
}
template <Half T> CTRAIN_INLINE void store(T* to, Lanes a, All) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow<T>(a));
}
template <Half T> CTRAIN_INLINE void store(T* to, Lanes a, Some some) {
  alignas(32) T copy[width];
  store(copy, a, All{});
  for (int i = 0; i < some.count; ++i) to[i] = copy[i];
}

/// Two of the four 128 bits of a, then two of b: 0x88 takes numbers 0 and 2, 0xDD 1 and 3.
template <int Selection> CTRAIN_INLINE __m512 quarters(__m512 a, __m512 b) {
  return _mm512_maskz_shuffle_f32x4(0xffff, a, b, Selection);
}

/// Lane j of rows[i] becomes lane i of rows[j].
CTRAIN_INLINE void transpose(Lanes (&rows)[width]) {
  __m512 quads[4][4];  // [i][j]: in its 128 bits L, column 4 L + j of rows 4 i to 4 i + 3
  for (int i = 0; i < 4; ++i) {
    const Lanes* r = rows + 4 * i;
    const auto low = [](Lanes a, Lanes b) {
      return _mm512_castps_pd(_mm512_maskz_unpacklo_ps(0xffff, a.value, b.value));
    };
    const auto high = [](Lanes a, Lanes b) {
      return _mm512_castps_pd(_mm512_maskz_unpackhi_ps(0xffff, a.value, b.value));
    };
    const __m512d low01 = low(r[0], r[1]), low23 = low(r[2], r[3]);
    const __m512d high01 = high(r[0], r[1]), high23 = high(r[2], r[3]);
    quads[i][0] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, low01, low23));
    quads[i][1] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, low01, low23));
    quads[i][2] = _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, high01, high23));
    quads[i][3] = _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, high01, high23));
  }
  for (int j = 0; j < 4; ++j) {
    const __m512 even01 = quarters<0x88>(quads[0][j], quads[1][j]);
    const __m512 even23 = quarters<0x88>(quads[2][j], quads[3][j]);
    const __m512 odd01 = quarters<0xDD>(quads[0][j], quads[1][j]);
    const __m512 odd23 = quarters<0xDD>(quads[2][j], quads[3][j]);
    rows[j] = quarters<0x88>(even01, even23);
    rows[4 + j] = quarters<0x88>(odd01, odd23);
    rows[8 + j] = quarters<0xDD>(even01, even23);
    rows[12 + j] = quarters<0xDD>(odd01, odd23);
  }
}

/// Stores past the caches where `to` is aligned to 64 bytes: for what is not read again soon.
/// Others see it after end_streaming().
CTRAIN_INLINE void stream_bits(void* to, __m512i bits) {
  if (reinterpret_cast<std::uintptr_t>(to) % 64 == 0)
    _mm512_stream_si512(static_cast<__m512i*>(to), bits);
  else
    _mm512_storeu_si512(to, bits);
}
CTRAIN_INLINE void stream(float* to, Lanes a) {
  stream_bits(to, _mm512_castps_si512(a.value));
}

/// The bits of T(first), then those of T(second).
template <Half T> CTRAIN_INLINE __m512i narrow_both(Lanes first, Lanes second) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, bf16>)
    return (__m512i)_mm512_cvtne2ps_pbh(second.value, first.value);
#endif
  const __m512i low = _mm512_castsi256_si512(narrow<T>(first));
  return _mm512_maskz_inserti64x4(0xff, low, narrow<T>(second), 1);
}
/// to[i] = T(lane i of first), to[16 + i] = T(lane i of second).
template <Half T> CTRAIN_INLINE void stream(T* to, Lanes first, Lanes second) {
  stream_bits(to, narrow_both<T>(first, second));
}

/// Lane i: the bits of T(even lane i), then those of T(odd lane i).
template <Half T> CTRAIN_INLINE __m512i narrow_pairs(Lanes even, Lanes odd) {
  const __m512i steps = _mm512_set1_epi32(0x00010001), first = _mm512_set1_epi32(0x00100000);
  const __m512i turns = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i alternating = _mm512_add_epi32(_mm512_mullo_epi32(steps, turns), first);
  return _mm512_maskz_permutexvar_epi16(~__mmask32{0}, alternating, narrow_both<T>(even, odd));
}
/// to[2 i] = T(even lane i), to[2 i + 1] = T(odd lane i).
template <Half T> CTRAIN_INLINE void store_pairs(T* to, Lanes even, Lanes odd) {
  _mm512_storeu_si512(to, narrow_pairs<T>(even, odd));
}
template <Half T> CTRAIN_INLINE void stream_pairs(T* to, Lanes even, Lanes odd) {
  stream_bits(to, narrow_pairs<T>(even, odd));
}
CTRAIN_INLINE void end_streaming() {
  _mm_sfence();
}
/// Asks for the cache line at `from`, which may lie outside any object.
CTRAIN_INLINE void prefetch(const void* from) {
  _mm_prefetch(from, _MM_HINT_T1);
}

/// Lane i is the sum of the lanes of rows[i].
CTRAIN_INLINE Lanes sums(const Lanes (&rows)[width]) {
  __m512 pairs[8], quads[4];
  for (int i = 0; i < 8; ++i) {
    const __m512 a = rows[2 * i].value, b = rows[2 * i + 1].value;
    pairs[i] = _mm512_add_ps(_mm512_maskz_unpacklo_ps(0xffff, a, b),
                             _mm512_maskz_unpackhi_ps(0xffff, a, b));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
    quads[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_maskz_unpacklo_pd(0xff, a, b)),
                             _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(0xff, a, b)));
  }
  const auto fold = [](__m512 a, __m512 b) {
    return _mm512_add_ps(quarters<0x88>(a, b), quarters<0xDD>(a, b));
  };
  return fold(fold(quads[0], quads[1]), fold(quads[2], quads[3]));
}

/// What a product multiplies in one go: in each lane one float, or two neighbours of 16 bits.
template <class T> struct Factor;
template <> struct Factor<float> {
  static constexpr int group = 1;
  Lanes value;

  CTRAIN_INLINE static Factor load(const float* from) { return {simd::load(from, All{})}; }
  CTRAIN_INLINE static Factor same(const float* from) { return {Lanes(*from)}; }
  /// sum + a * b in each lane.
  CTRAIN_INLINE static Lanes add_product(Factor a, Factor b, Lanes sum) {
    return multiply_add(a.value, b.value, sum);
  }
};
template <> struct Factor<bf16> {
  static constexpr int group = 2;
  __m512i pairs;

  CTRAIN_INLINE static Factor load(const bf16* from) { return {_mm512_loadu_si512(from)}; }
  CTRAIN_INLINE static Factor same(const bf16* from) {
    std::int32_t both;
    __builtin_memcpy(&both, from, sizeof both);
    return {_mm512_set1_epi32(both)};
  }
  CTRAIN_INLINE static Lanes add_product(Factor a, Factor b, Lanes sum) {
#if defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(sum.value, (__m512bh)a.pairs, (__m512bh)b.pairs);
#else
    const Lanes low = multiply_add(a.low(), b.low(), sum);
    return multiply_add(a.high(), b.high(), low);
#endif
  }

 private:
  CTRAIN_INLINE Lanes low() const {
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, pairs, 16));
  }
  CTRAIN_INLINE Lanes high() const {
    const __m512i upper = _mm512_set1_epi32(std::int32_t(0xffff0000u));
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
  }
};
/// fp16 is storage here: widened when it is read, multiplied as floats.
template <> struct Factor<fp16> {
  static constexpr int group = 2;
  Lanes low, high;

  CTRAIN_INLINE static Factor load(const fp16* from) { return widened(_mm512_loadu_si512(from)); }
  CTRAIN_INLINE static Factor same(const fp16* from) {
    std::int32_t both;
    __builtin_memcpy(&both, from, sizeof both);
    return widened(_mm512_set1_epi32(both));
  }
  CTRAIN_INLINE static Lanes add_product(const Factor& a, const Factor& b, Lanes sum) {
    return multiply_add(a.high, b.high, multiply_add(a.low, b.low, sum));
  }

 private:
  CTRAIN_INLINE static Factor widened(__m512i pairs) {
    const __m512i upper = _mm512_maskz_srli_epi32(0xffff, pairs, 16);
    return {widen<fp16>(_mm512_maskz_cvtepi32_epi16(0xffff, pairs)),
            widen<fp16>(_mm512_maskz_cvtepi32_epi16(0xffff, upper))};
  }
};

/// 16 words of 32 bits.
struct Integers {
  __m512i value;
};
CTRAIN_INLINE Integers same(std::uint32_t each) {
  return {_mm512_set1_epi32(std::int32_t(each))};
}
/// first, first + 1, ..., first + 15.
CTRAIN_INLINE Integers counting_from(std::uint32_t first) {
  const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_add_epi32(same(first).value, steps)};
}
CTRAIN_INLINE Integers operator^(Integers a, Integers b) {
  return {_mm512_xor_si512(a.value, b.value)};
}
struct Product {
  Integers high, low;
};
/// The 64-bit products of 32-bit words.
CTRAIN_INLINE Product wide_product(Integers a, std::uint32_t by) {
  const __m512i factor = _mm512_set1_epi32(std::int32_t(by));
  const __m512i even = _mm512_maskz_mul_epu32(0xff, a.value, factor);
  const __m512i odd =
      _mm512_maskz_mul_epu32(0xff, _mm512_maskz_srli_epi64(0xff, a.value, 32), factor);
  return {{_mm512_mask_blend_epi32(0xAAAA, _mm512_maskz_srli_epi64(0xff, even, 32), odd)},
          {_mm512_mask_blend_epi32(0xAAAA, even, _mm512_maskz_slli_epi64(0xff, odd, 32))}};
}
/// Whether the low (or high) 16 bits of each word are below the threshold.
CTRAIN_INLINE Mask half_below(Integers a, bool high, std::uint32_t threshold) {
  const __m512i half = high ? _mm512_maskz_srli_epi32(0xffff, a.value, 16)
                            : _mm512_and_si512(a.value, _mm512_set1_epi32(0xffff));
  return {_mm512_cmplt_epu32_mask(half, same(threshold).value)};
}

/// Exact sums of squares (backend/math/sum_of_squares.hpp), eight pairs at a time: what the sum of
/// a summand and a cut has in its last bits is the integer.
struct SquareSums {
  __m512i high = _mm512_setzero_si512(), middle = high, low = high;
  __mmask8 not_finite = 0;
  std::int64_t count = 0;

  CTRAIN_INLINE void add_squares(Lanes a) {
    const __m512d pairs = _mm512_castps_pd(a.value);
    const __m256d lower = _mm512_maskz_extractf64x4_pd(0xf, pairs, 0);
    const __m256d upper = _mm512_maskz_extractf64x4_pd(0xf, pairs, 1);
    const __m512d x = _mm512_maskz_cvtps_pd(0xff, _mm256_castpd_ps(lower));
    const __m512d y = _mm512_maskz_cvtps_pd(0xff, _mm256_castpd_ps(upper));
    const __m512d sum = _mm512_fmadd_pd(y, y, _mm512_mul_pd(x, x));
    not_finite = __mmask8(not_finite |
                          _mm512_cmp_pd_mask(sum, _mm512_set1_pd(ExactSum::largest), _CMP_NLT_UQ));
    const __m512d rest = cut(sum, ExactSum::cut_high, high);
    const __m512d last = cut(rest, ExactSum::cut_middle, middle);
    cut(last, ExactSum::cut_low, low);
    ++count;
  }
  /// Of at most ExactSum::most_uncarried additions.
  ExactSum total() const {
    if (not_finite != 0) return {.not_finite = 1};
    CutSums<8> lanes;
    _mm512_storeu_si512(lanes.high, high);
    _mm512_storeu_si512(lanes.middle, middle);
    _mm512_storeu_si512(lanes.low, low);
    return lanes.total(count);
  }

 private:
  CTRAIN_INLINE static __m512d cut(__m512d x, double at, __m512i& integer) {
    const __m512d shifted = _mm512_add_pd(x, _mm512_set1_pd(at));
    integer = _mm512_add_epi64(integer, _mm512_castpd_si512(shifted));
    return _mm512_sub_pd(x, _mm512_sub_pd(shifted, _mm512_set1_pd(at)));
  }
};

}  // namespace ctrain::simd
#endif
