/// \file  Sixteen floats at once: AVX-512 where the compiler has it, loops elsewhere.   floor 5: backend
#pragma once

#include <ctrain/backend/math/sum_of_squares.hpp>
#include <ctrain/core/config.hpp>
#include <ctrain/core/floating.hpp>
#include <ctrain/core/philox.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__) && defined(__AVX512BW__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace ctrain::simd {

inline constexpr int width = 16;

/// Whether 16 lanes are one register, so that kernels written in them are near the machine's peak.
#if defined(__AVX512F__) && defined(__AVX512BW__) && !defined(__CUDACC__)
inline constexpr bool native = true;
#else
inline constexpr bool native = false;
#endif

/// f(0), f(1), ..., f(Count - 1) with constants: what f indexes stays in registers.
template <int Count, class F> CTRAIN_INLINE void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>{}), ...);
  }
  (std::make_integer_sequence<int, Count>{});
}

/// How many of 16 neighbours a load or store touches; a load sets the others to 0.
struct All {
  static constexpr int count = width;
};
struct Some {
  int count = 0;
};

/// f(column, All or Some) for every 16 columns of a row.
template <class F> CTRAIN_INLINE void each_lanes(int columns, F&& f) {
  int c = 0;
  for (; c + width <= columns; c += width) f(c, All{});
  if (c < columns) f(c, Some{columns - c});
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && !defined(__CUDACC__)

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
    ExactSum sum;
    sum.not_finite = not_finite != 0;
    if (not_finite != 0) return sum;
    sum.high = add_up(high, ExactSum::cut_high);
    sum.middle = add_up(middle, ExactSum::cut_middle);
    sum.low = add_up(low, ExactSum::cut_low);
    sum.carry();
    return sum;
  }

 private:
  CTRAIN_INLINE static __m512d cut(__m512d x, double at, __m512i& integer) {
    const __m512d shifted = _mm512_add_pd(x, _mm512_set1_pd(at));
    integer = _mm512_add_epi64(integer, _mm512_castpd_si512(shifted));
    return _mm512_sub_pd(x, _mm512_sub_pd(shifted, _mm512_set1_pd(at)));
  }
  std::int64_t add_up(__m512i integers, double at) const {
    std::uint64_t lanes[8];
    _mm512_storeu_si512(lanes, integers);
    std::uint64_t sum = 0;
    for (const std::uint64_t lane : lanes)
      sum += lane - std::uint64_t(count) * std::bit_cast<std::uint64_t>(at);
    return std::int64_t(sum);
  }
};

#else

struct Mask {
  std::uint32_t bits;
};

/// 16 floats.
struct Lanes {
  float at[width];
  Lanes() = default;
  CTRAIN_INLINE Lanes(float each) {
    for (float& x : at) x = each;
  }
};

/// f(i) in lane i.
template <class F> CTRAIN_INLINE Lanes lanes_of(F&& f) {
  Lanes result;
  for (int i = 0; i < width; ++i) result.at[i] = f(i);
  return result;
}

CTRAIN_INLINE Lanes operator+(const Lanes& a, const Lanes& b) {
  return lanes_of([&](int i) { return a.at[i] + b.at[i]; });
}
CTRAIN_INLINE Lanes operator-(const Lanes& a, const Lanes& b) {
  return lanes_of([&](int i) { return a.at[i] - b.at[i]; });
}
CTRAIN_INLINE Lanes operator*(const Lanes& a, const Lanes& b) {
  return lanes_of([&](int i) { return a.at[i] * b.at[i]; });
}
CTRAIN_INLINE Lanes operator/(const Lanes& a, const Lanes& b) {
  return lanes_of([&](int i) { return a.at[i] / b.at[i]; });
}
CTRAIN_INLINE Mask operator<(const Lanes& a, const Lanes& b) {
  Mask mask{0};
  for (int i = 0; i < width; ++i) mask.bits |= std::uint32_t(a.at[i] < b.at[i]) << i;
  return mask;
}
/// a * b + c.
CTRAIN_INLINE Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) {
  return lanes_of([&](int i) { return a.at[i] * b.at[i] + c.at[i]; });
}
/// The larger; b where either is NaN.
CTRAIN_INLINE Lanes larger(const Lanes& a, const Lanes& b) {
  return lanes_of([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
CTRAIN_INLINE Lanes smaller(const Lanes& a, const Lanes& b) {
  return lanes_of([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
}
CTRAIN_INLINE Lanes square_root(const Lanes& a) {
  return lanes_of([&](int i) { return std::sqrt(a.at[i]); });
}
CTRAIN_INLINE Lanes select(Mask take, const Lanes& yes, const Lanes& no) {
  return lanes_of([&](int i) { return (take.bits >> i) & 1u ? yes.at[i] : no.at[i]; });
}
CTRAIN_INLINE Lanes round_to_integer(const Lanes& a) {
  return lanes_of([&](int i) { return std::nearbyint(a.at[i]); });
}
/// a * 2^n, n whole.
CTRAIN_INLINE Lanes times_power_of_two(const Lanes& a, const Lanes& n) {
  return lanes_of(
      [&](int i) { return std::isnan(n.at[i]) ? n.at[i] : std::ldexp(a.at[i], int(n.at[i])); });
}
CTRAIN_INLINE Lanes magnitude(const Lanes& a) {
  return lanes_of([&](int i) { return std::fabs(a.at[i]); });
}
/// |a| with the sign of b.
CTRAIN_INLINE Lanes with_sign(const Lanes& a, const Lanes& b) {
  return lanes_of([&](int i) { return std::copysign(a.at[i], b.at[i]); });
}

/// 16 words of 32 bits (or some, then 0) of any type, to be moved and stored again.
template <class Count> CTRAIN_INLINE Lanes load_words(const void* from, Count some) {
  Lanes words = 0.0f;
  __builtin_memcpy(words.at, from, sizeof(float) * std::size_t(some.count));
  return words;
}
CTRAIN_INLINE void store_words(void* to, const Lanes& words) {
  __builtin_memcpy(to, words.at, sizeof words.at);
}
template <class T, class Count> CTRAIN_INLINE Lanes load(const T* from, Count some) {
  return lanes_of([&](int i) { return i < some.count ? float(from[i]) : 0.0f; });
}
template <class T, class Count> CTRAIN_INLINE void store(T* to, const Lanes& a, Count some) {
  for (int i = 0; i < some.count; ++i) to[i] = T(a.at[i]);
}

/// Lane j of rows[i] becomes lane i of rows[j].
CTRAIN_INLINE void transpose(Lanes (&rows)[width]) {
  for (int i = 0; i < width; ++i)
    for (int j = 0; j < i; ++j) {
      const float below = rows[i].at[j];
      rows[i].at[j] = rows[j].at[i];
      rows[j].at[i] = below;
    }
}

CTRAIN_INLINE void stream(float* to, const Lanes& a) {
  store(to, a, All{});
}
/// to[i] = T(lane i of first), to[16 + i] = T(lane i of second).
template <Half T> CTRAIN_INLINE void stream(T* to, const Lanes& first, const Lanes& second) {
  store(to, first, All{});
  store(to + width, second, All{});
}
/// to[2 i] = T(even lane i), to[2 i + 1] = T(odd lane i).
template <Half T> CTRAIN_INLINE void stream_pairs(T* to, const Lanes& even, const Lanes& odd) {
  for (int i = 0; i < width; ++i) {
    to[2 * i] = T(even.at[i]);
    to[2 * i + 1] = T(odd.at[i]);
  }
}
template <Half T> CTRAIN_INLINE void store_pairs(T* to, const Lanes& even, const Lanes& odd) {
  stream_pairs(to, even, odd);
}
CTRAIN_INLINE void end_streaming() {}
CTRAIN_INLINE void prefetch(const void*) {}

/// Lane i is the sum of the lanes of rows[i].
CTRAIN_INLINE Lanes sums(const Lanes (&rows)[width]) {
  return lanes_of([&](int i) {
    float total = 0;
    for (float x : rows[i].at) total += x;
    return total;
  });
}

/// What a product multiplies in one go: in each lane `group` neighbours.
template <class T> struct Factor {
  static constexpr int group = int(sizeof(float) / sizeof(T));
  T at[width * group];

  CTRAIN_INLINE static Factor load(const T* from) {
    Factor result;
    for (int i = 0; i < width * group; ++i) result.at[i] = from[i];
    return result;
  }
  CTRAIN_INLINE static Factor same(const T* from) {
    Factor result;
    for (int i = 0; i < width * group; ++i) result.at[i] = from[i % group];
    return result;
  }
  /// sum + a * b in each lane.
  CTRAIN_INLINE static Lanes add_product(const Factor& a, const Factor& b, Lanes sum) {
    for (int i = 0; i < width * group; ++i) sum.at[i / group] += float(a.at[i]) * float(b.at[i]);
    return sum;
  }
};

/// 16 words of 32 bits.
struct Integers {
  std::uint32_t at[width];
};
CTRAIN_INLINE Integers same(std::uint32_t each) {
  Integers result;
  for (std::uint32_t& x : result.at) x = each;
  return result;
}
/// first, first + 1, ..., first + 15.
CTRAIN_INLINE Integers counting_from(std::uint32_t first) {
  Integers result;
  for (int i = 0; i < width; ++i) result.at[i] = first + std::uint32_t(i);
  return result;
}
CTRAIN_INLINE Integers operator^(const Integers& a, const Integers& b) {
  Integers result;
  for (int i = 0; i < width; ++i) result.at[i] = a.at[i] ^ b.at[i];
  return result;
}
struct Product {
  Integers high, low;
};
/// The 64-bit products of 32-bit words.
CTRAIN_INLINE Product wide_product(const Integers& a, std::uint32_t by) {
  Product result;
  for (int i = 0; i < width; ++i) {
    const std::uint64_t whole = std::uint64_t{by} * a.at[i];
    result.high.at[i] = std::uint32_t(whole >> 32);
    result.low.at[i] = std::uint32_t(whole);
  }
  return result;
}
/// Whether the low (or high) 16 bits of each word are below the threshold.
CTRAIN_INLINE Mask half_below(const Integers& a, bool high, std::uint32_t threshold) {
  Mask mask{0};
  for (int i = 0; i < width; ++i)
    mask.bits |= std::uint32_t(((a.at[i] >> (high ? 16 : 0)) & 0xffffu) < threshold) << i;
  return mask;
}

/// Exact sums of squares (backend/math/sum_of_squares.hpp).
struct SquareSums {
  ExactSum sum;

  CTRAIN_INLINE void add_squares(const Lanes& a) {
    for (int i = 0; i < width / 2; ++i) {
      const double x = a.at[i], y = a.at[i + width / 2];
      sum.add(x * x + y * y);
    }
  }
  /// Of at most ExactSum::most_uncarried additions.
  ExactSum total() const {
    ExactSum carried = sum;
    carried.carry();
    return carried;
  }
};

#endif

/// The sum of 16 lanes, in halves: lane i with lane i + 8, then i + 4, i + 2, i + 1.
CTRAIN_INLINE float sum(Lanes a) {
  float at[width];
  store(at, a, All{});
  for (int half = width / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) at[i] += at[i + half];
  return at[0];
}

CTRAIN_INLINE float largest(Lanes a) {
  float at[width];
  store(at, a, All{});
  for (int half = width / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) at[i] = at[i] > at[i + half] ? at[i] : at[i + half];
  return at[0];
}

/// coefficients[0] x^n + ... + coefficients[n], by Horner.
template <int Count> CTRAIN_INLINE Lanes polynomial(Lanes x, const float (&coefficients)[Count]) {
  Lanes value = coefficients[0];
  for (int i = 1; i < Count; ++i) value = multiply_add(value, x, coefficients[i]);
  return value;
}

/// e^x: x = n ln 2 + r, a polynomial in r (Cephes expf), times 2^n. Relative error <= 1.2e-7; below
/// -104 it is 0, above 89 infinite, and NaN stays NaN.
CTRAIN_INLINE Lanes exponential(Lanes x) {
  static constexpr float series[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                     4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  const Lanes bounded = smaller(Lanes(89.0f), larger(Lanes(-104.0f), x));
  const Lanes n = round_to_integer(bounded * Lanes(1.44269504088896341f));
  Lanes r = multiply_add(n, Lanes(-0.693359375f), bounded);
  r = multiply_add(n, Lanes(2.12194440e-4f), r);
  const Lanes value = multiply_add(polynomial(r, series), r * r, r + Lanes(1.0f));
  return times_power_of_two(value, n);
}

/// tanh x: an odd polynomial below 0.625 (Cephes tanhf), else 1 - 2 / (e^2|x| + 1). Absolute error
/// <= 1.2e-7.
CTRAIN_INLINE Lanes hyperbolic_tangent(Lanes x) {
  static constexpr float series[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f,
                                     1.33314422036e-1f, -3.33332819422e-1f};
  const Lanes a = magnitude(x), square = x * x;
  const Lanes near = multiply_add(polynomial(square, series) * square, x, x);
  const Lanes far = Lanes(1.0f) - Lanes(2.0f) / (exponential(a + a) + Lanes(1.0f));
  return select(a < Lanes(0.625f), near, with_sign(far, x));
}

/// erf x: an odd polynomial below 0.9277, else 1 - e^p(|x|). Absolute error <= 1.2e-7.
CTRAIN_INLINE Lanes error_function(Lanes x) {
  static constexpr float near_series[] = {-5.96761703e-4f, 4.99119423e-3f,  -2.67681349e-2f,
                                          1.12819925e-1f,  -3.76125336e-1f, 1.28379166e-1f};
  static constexpr float far_series[] = {-1.72853470e-5f, 3.83197126e-4f,  -3.88396438e-3f,
                                         2.42546219e-2f,  -1.06777877e-1f, -6.34846687e-1f,
                                         -1.28717512e-1f};
  const Lanes a = magnitude(x);
  const Lanes near = multiply_add(polynomial(x * x, near_series), x, x);
  const Lanes exponent = multiply_add(polynomial(a, far_series), a, Lanes(0.0f) - a);
  const Lanes far = Lanes(1.0f) - exponential(exponent);
  return select(a < Lanes(0.927734375f), near, with_sign(far, x));
}

/// The random words of 16 neighbouring counters, as core/philox.hpp makes them one by one.
struct Words16 {
  Integers word[4];
};
CTRAIN_INLINE Words16 philox16(std::uint32_t first_counter, std::uint32_t token, DropoutKey key) {
  Integers x = counting_from(first_counter), y = same(token);
  Integers z = same(key.layer_site), w = same(key.step);
  std::uint32_t key0 = std::uint32_t(key.seed), key1 = std::uint32_t(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const Product a = wide_product(x, 0xD2511F53u), b = wide_product(z, 0xCD9E8D57u);
    x = b.high ^ y ^ same(key0);
    z = a.high ^ w ^ same(key1);
    y = b.low;
    w = a.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{x, y, z, w}};
}

}  // namespace ctrain::simd
