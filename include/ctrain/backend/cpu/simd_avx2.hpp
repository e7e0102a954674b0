/// \file  Sixteen floats in two registers of AVX2; empty where the compiler has AVX-512, or neither.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd_base.hpp>
#include <ctrain/core/floating.hpp>

#include <cstdint>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(__CUDACC__) && \
    !(defined(__AVX512F__) && defined(__AVX512BW__))
#include <immintrin.h>

namespace ctrain::simd {

/// Whether kernels written in lanes are near the machine's peak.
inline constexpr bool native = true;
/// Lanes side by side in a tile of sums: with 6 rows, 12 of the 16 registers.
inline constexpr int tile_lanes = 1;

/// All bits of a lane set, or none.
struct Mask {
  __m256 low, high;
};

/// 16 floats: the first 8 in `low`.
struct Lanes {
  __m256 low, high;
  Lanes() = default;
  CTRAIN_INLINE Lanes(__m256 first, __m256 second) : low(first), high(second) {}
  CTRAIN_INLINE Lanes(float each) : low(_mm256_set1_ps(each)), high(low) {}
};

CTRAIN_INLINE Lanes operator+(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
CTRAIN_INLINE Lanes operator-(Lanes a, Lanes b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
CTRAIN_INLINE Lanes operator*(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
CTRAIN_INLINE Lanes operator/(Lanes a, Lanes b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
CTRAIN_INLINE Mask operator<(Lanes a, Lanes b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}

/// a * b + c, rounded once.
CTRAIN_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
/// The larger; b where either is NaN.
CTRAIN_INLINE Lanes larger(Lanes a, Lanes b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
CTRAIN_INLINE Lanes smaller(Lanes a, Lanes b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
CTRAIN_INLINE Lanes square_root(Lanes a) {
  return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)};
}
CTRAIN_INLINE Lanes select(Mask take, Lanes yes, Lanes no) {
  return {_mm256_blendv_ps(no.low, yes.low, take.low),
          _mm256_blendv_ps(no.high, yes.high, take.high)};
}
CTRAIN_INLINE Lanes round_to_integer(Lanes a) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, nearest), _mm256_round_ps(a.high, nearest)};
}
/// a * 2^n, n whole and within [-252, 254]: by two factors, each of which is a float.
CTRAIN_INLINE __m256 times_power_of_two(__m256 a, __m256 n) {
  const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  const auto power = [](__m256i exponent) {
    const __m256i biased = _mm256_add_epi32(exponent, _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  };
  return _mm256_mul_ps(_mm256_mul_ps(a, power(half)), power(_mm256_sub_epi32(whole, half)));
}
CTRAIN_INLINE Lanes times_power_of_two(Lanes a, Lanes n) {
  return {times_power_of_two(a.low, n.low), times_power_of_two(a.high, n.high)};
}
CTRAIN_INLINE Lanes magnitude(Lanes a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
/// |a| with the sign of b.
CTRAIN_INLINE Lanes with_sign(Lanes a, Lanes b) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  const Lanes size = magnitude(a);
  return {_mm256_or_ps(size.low, _mm256_and_ps(sign, b.low)),
          _mm256_or_ps(size.high, _mm256_and_ps(sign, b.high))};
}

// memory -----------------------------------------------------------------------------------------

/// All bits of the first some.count words set.
struct Touched {
  __m256i low, high;
};
CTRAIN_INLINE Touched touched(Some some) {
  const __m256i turns = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i count = _mm256_set1_epi32(some.count);
  return {_mm256_cmpgt_epi32(count, turns),
          _mm256_cmpgt_epi32(count, _mm256_add_epi32(turns, _mm256_set1_epi32(8)))};
}

CTRAIN_INLINE Lanes load(const float* from, All) {
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
CTRAIN_INLINE Lanes load(const float* from, Some some) {
  const Touched mask = touched(some);
  return {_mm256_maskload_ps(from, mask.low), _mm256_maskload_ps(from + 8, mask.high)};
}
CTRAIN_INLINE void store(float* to, Lanes a, All) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
CTRAIN_INLINE void store(float* to, Lanes a, Some some) {
  const Touched mask = touched(some);
  _mm256_maskstore_ps(to, mask.low, a.low);
  _mm256_maskstore_ps(to + 8, mask.high, a.high);
}

/// 16 words of 32 bits (or some, then 0) of any type, to be moved and stored again.
template <class Count> CTRAIN_INLINE Lanes load_words(const void* from, Count some) {
  return load(static_cast<const float*>(from), some);
}
CTRAIN_INLINE void store_words(void* to, Lanes words) {
  store(static_cast<float*>(to), words, All{});
}

/// 8 numbers of a type of 16 bits.
template <Half T> CTRAIN_INLINE __m256 widen(__m128i halves) {
  if constexpr (dtype_of<T> == DType::fp16)
    return _mm256_cvtph_ps(halves);
  else
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
template <Half T> CTRAIN_INLINE Lanes load(const T* from, All) {
  const auto* const halves = reinterpret_cast<const __m128i*>(from);
  return {widen<T>(_mm_loadu_si128(halves)), widen<T>(_mm_loadu_si128(halves + 1))};
}
template <Half T> CTRAIN_INLINE Lanes load(const T* from, Some some) {
  alignas(32) T copy[width] = {};
  for (int i = 0; i < some.count; ++i) copy[i] = from[i];
  return load(copy, All{});
}

/// The bits of T(a) in the lower half of each word, bit for bit what core/floating.hpp defines, but
/// for the payload of a NaN; of bf16 the upper half is that of `a` or one more.
template <Half T> CTRAIN_INLINE __m256i narrow_words(__m256 a) {
  if constexpr (dtype_of<T> == DType::fp16) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(a, nearest));
  } else {
    const __m256i u = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    const __m256 bits =
        _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan);
    return _mm256_srli_epi32(_mm256_castps_si256(bits), 16);
  }
}
/// The bits of T(a), as 16 halves.
template <Half T> CTRAIN_INLINE __m256i narrow(Lanes a) {
  const __m256i mixed = _mm256_packus_epi32(narrow_words<T>(a.low), narrow_words<T>(a.high));
  return _mm256_permute4x64_epi64(mixed, 0xD8);  // packing goes by 128 bits: 0, 2, 1, 3
}
template <Half T> CTRAIN_INLINE void store(T* to, Lanes a, All) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow<T>(a));
}
template <Half T> CTRAIN_INLINE void store(T* to, Lanes a, Some some) {
  alignas(32) T copy[width];
  store(copy, a, All{});
  for (int i = 0; i < some.count; ++i) to[i] = copy[i];
}

/// Stores past the caches where `to` is aligned to 64 bytes: for what is not read again soon.
/// Others see it after end_streaming().
CTRAIN_INLINE void stream_bits(void* to, __m256i low, __m256i high) {
  auto* const place = static_cast<__m256i*>(to);
  if (reinterpret_cast<std::uintptr_t>(to) % 64 == 0) {
    _mm256_stream_si256(place, low);
    _mm256_stream_si256(place + 1, high);
  } else {
    _mm256_storeu_si256(place, low);
    _mm256_storeu_si256(place + 1, high);
  }
}
CTRAIN_INLINE void stream(float* to, Lanes a) {
  stream_bits(to, _mm256_castps_si256(a.low), _mm256_castps_si256(a.high));
}
/// to[i] = T(lane i of first), to[16 + i] = T(lane i of second).
template <Half T> CTRAIN_INLINE void stream(T* to, Lanes first, Lanes second) {
  stream_bits(to, narrow<T>(first), narrow<T>(second));
}

/// Word i: the bits of T(even lane i), then those of T(odd lane i).
template <Half T> CTRAIN_INLINE __m256i narrow_pairs(__m256 even, __m256 odd) {
  return _mm256_or_si256(narrow_words<T>(even), _mm256_slli_epi32(narrow_words<T>(odd), 16));
}
/// to[2 i] = T(even lane i), to[2 i + 1] = T(odd lane i).
template <Half T> CTRAIN_INLINE void store_pairs(T* to, Lanes even, Lanes odd) {
  auto* const place = reinterpret_cast<__m256i*>(to);
  _mm256_storeu_si256(place, narrow_pairs<T>(even.low, odd.low));
  _mm256_storeu_si256(place + 1, narrow_pairs<T>(even.high, odd.high));
}
template <Half T> CTRAIN_INLINE void stream_pairs(T* to, Lanes even, Lanes odd) {
  stream_bits(to, narrow_pairs<T>(even.low, odd.low), narrow_pairs<T>(even.high, odd.high));
}
CTRAIN_INLINE void end_streaming() {
  _mm_sfence();
}
/// Asks for the cache line at `from`, which may lie outside any object.
CTRAIN_INLINE void prefetch(const void* from) {
  _mm_prefetch(from, _MM_HINT_T1);
}

// across lanes -----------------------------------------------------------------------------------

/// Lane j of rows[i] becomes lane i of rows[j], i and j < 8.
CTRAIN_INLINE void transpose_eight(__m256 (&rows)[8]) {
  __m256 quads[2][4];  // [i][j]: in its 128 bits L, column 4 L + j of rows 4 i to 4 i + 3
  for (int i = 0; i < 2; ++i) {
    const __m256* const r = rows + 4 * i;
    const __m256 low01 = _mm256_unpacklo_ps(r[0], r[1]), low23 = _mm256_unpacklo_ps(r[2], r[3]);
    const __m256 high01 = _mm256_unpackhi_ps(r[0], r[1]), high23 = _mm256_unpackhi_ps(r[2], r[3]);
    quads[i][0] = _mm256_shuffle_ps(low01, low23, 0x44);
    quads[i][1] = _mm256_shuffle_ps(low01, low23, 0xEE);
    quads[i][2] = _mm256_shuffle_ps(high01, high23, 0x44);
    quads[i][3] = _mm256_shuffle_ps(high01, high23, 0xEE);
  }
  for (int j = 0; j < 4; ++j) {
    rows[j] = _mm256_permute2f128_ps(quads[0][j], quads[1][j], 0x20);
    rows[4 + j] = _mm256_permute2f128_ps(quads[0][j], quads[1][j], 0x31);
  }
}

/// Lane j of rows[i] becomes lane i of rows[j].
CTRAIN_INLINE void transpose(Lanes (&rows)[width]) {
  __m256 parts[2][2][8];  // [i][j]: rows from 8 i, columns from 8 j
  for (int i = 0; i < 2; ++i) {
    for (int r = 0; r < 8; ++r)
      parts[i][0][r] = rows[8 * i + r].low, parts[i][1][r] = rows[8 * i + r].high;
    transpose_eight(parts[i][0]);
    transpose_eight(parts[i][1]);
  }
  for (int r = 0; r < width; ++r) rows[r] = {parts[0][r / 8][r % 8], parts[1][r / 8][r % 8]};
}

/// Lane i is the sum of the lanes of rows[i].
CTRAIN_INLINE Lanes sums(const Lanes (&rows)[width]) {
  const auto halves = [&](int i) { return _mm256_add_ps(rows[i].low, rows[i].high); };
  const auto four = [&](int i) {
    return _mm256_hadd_ps(_mm256_hadd_ps(halves(i), halves(i + 1)),
                          _mm256_hadd_ps(halves(i + 2), halves(i + 3)));
  };
  const auto eight = [&](int i) {
    const __m256 a = four(i), b = four(i + 4);
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  };
  return {eight(0), eight(8)};
}

// products ---------------------------------------------------------------------------------------

/// What a product multiplies in one go: in each lane one float, or two neighbours of 16 bits.
template <class T> struct Factor;
template <> struct Factor<float> {
  static constexpr int group = 1;
  Lanes value;

  CTRAIN_INLINE static Factor load(const float* from) { return {simd::load(from, All{})}; }
  CTRAIN_INLINE static Factor same(const float* from) { return {Lanes(*from)}; }
  /// sum + a * b in each lane.
  CTRAIN_INLINE static Lanes add_product(const Factor& a, const Factor& b, Lanes sum) {
    return multiply_add(a.value, b.value, sum);
  }
};
/// 16 bits are storage here: widened when they are read, multiplied as floats.
template <Half T> struct Factor<T> {
  static constexpr int group = 2;
  Lanes even, odd;

  CTRAIN_INLINE static Factor load(const T* from) {
    const auto* const words = reinterpret_cast<const __m256i*>(from);
    const __m256i low = _mm256_loadu_si256(words), high = _mm256_loadu_si256(words + 1);
    return {{even_of(low), even_of(high)}, {odd_of(low), odd_of(high)}};
  }
  CTRAIN_INLINE static Factor same(const T* from) {
    std::int32_t both;
    __builtin_memcpy(&both, from, sizeof both);
    const __m256i words = _mm256_set1_epi32(both);
    const __m256 first = even_of(words), second = odd_of(words);
    return {{first, first}, {second, second}};
  }
  CTRAIN_INLINE static Lanes add_product(const Factor& a, const Factor& b, Lanes sum) {
    return multiply_add(a.odd, b.odd, multiply_add(a.even, b.even, sum));
  }

 private:
  /// Eight words of 16 bits as floats.
  CTRAIN_INLINE static __m256 wide(__m256i words) {
    const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    return widen<T>(_mm_packus_epi32(low, high));
  }
  CTRAIN_INLINE static __m256 even_of(__m256i words) {
    if constexpr (dtype_of<T> == DType::bf16)
      return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    else
      return wide(_mm256_and_si256(words, _mm256_set1_epi32(0xffff)));
  }
  CTRAIN_INLINE static __m256 odd_of(__m256i words) {
    if constexpr (dtype_of<T> == DType::bf16)
      return _mm256_castsi256_ps(
          _mm256_and_si256(words, _mm256_set1_epi32(std::int32_t(0xffff0000u))));
    else
      return wide(_mm256_srli_epi32(words, 16));
  }
};

// integers ---------------------------------------------------------------------------------------

/// 16 words of 32 bits.
struct Integers {
  __m256i low, high;
};
CTRAIN_INLINE Integers same(std::uint32_t each) {
  const __m256i words = _mm256_set1_epi32(std::int32_t(each));
  return {words, words};
}
/// first, first + 1, ..., first + 15.
CTRAIN_INLINE Integers counting_from(std::uint32_t first) {
  const __m256i turns = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_add_epi32(same(first).low, turns), _mm256_add_epi32(same(first + 8).low, turns)};
}
CTRAIN_INLINE Integers operator^(Integers a, Integers b) {
  return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}
struct Product {
  Integers high, low;
};
/// The 64-bit products of 32-bit words.
CTRAIN_INLINE Product wide_product(Integers a, std::uint32_t by) {
  const __m256i factor = _mm256_set1_epi32(std::int32_t(by));
  Product result;
  const auto half = [&](__m256i words, __m256i& high, __m256i& low) {
    const __m256i even = _mm256_mul_epu32(words, factor);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(words, 32), factor);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  };
  half(a.low, result.high.low, result.low.low);
  half(a.high, result.high.high, result.low.high);
  return result;
}
/// Whether the low (or high) 16 bits of each word are below the threshold, at most 65,536.
CTRAIN_INLINE Mask half_below(Integers a, bool high, std::uint32_t threshold) {
  const __m256i bound = same(threshold).low;
  const auto below = [&](__m256i words) {
    const __m256i half =
        high ? _mm256_srli_epi32(words, 16) : _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(bound, half));
  };
  return {below(a.low), below(a.high)};
}

/// Exact sums of squares (backend/math/sum_of_squares.hpp), four pairs at a time: what the sum of
/// a summand and a cut has in its last bits is the integer.
struct SquareSums {
  __m256i high = _mm256_setzero_si256(), middle = high, low = high;
  __m256d not_finite = _mm256_setzero_pd();
  std::int64_t count = 0;

  CTRAIN_INLINE void add_squares(Lanes a) {
    add_squares(_mm256_castps256_ps128(a.low), _mm256_castps256_ps128(a.high));
    add_squares(_mm256_extractf128_ps(a.low, 1), _mm256_extractf128_ps(a.high, 1));
  }
  /// Of at most ExactSum::most_uncarried additions of 16 lanes.
  ExactSum total() const {
    if (_mm256_movemask_pd(not_finite) != 0) return {.not_finite = 1};
    CutSums<4> lanes;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes.high), high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes.middle), middle);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes.low), low);
    return lanes.total(count);
  }

 private:
  CTRAIN_INLINE void add_squares(__m128 first, __m128 second) {
    const __m256d x = _mm256_cvtps_pd(first), y = _mm256_cvtps_pd(second);
    const __m256d sum = _mm256_fmadd_pd(y, y, _mm256_mul_pd(x, x));
    not_finite = _mm256_or_pd(not_finite,
                              _mm256_cmp_pd(sum, _mm256_set1_pd(ExactSum::largest), _CMP_NLT_UQ));
    const __m256d rest = cut(sum, ExactSum::cut_high, high);
    const __m256d last = cut(rest, ExactSum::cut_middle, middle);
    cut(last, ExactSum::cut_low, low);
    ++count;
  }
  CTRAIN_INLINE static __m256d cut(__m256d x, double at, __m256i& integer) {
    const __m256d shifted = _mm256_add_pd(x, _mm256_set1_pd(at));
    integer = _mm256_add_epi64(integer, _mm256_castpd_si256(shifted));
    return _mm256_sub_pd(x, _mm256_sub_pd(shifted, _mm256_set1_pd(at)));
  }
};

}  // namespace ctrain::simd
#endif
