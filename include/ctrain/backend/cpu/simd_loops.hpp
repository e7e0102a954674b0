/// \file  Sixteen floats in an array, for compilers without AVX2; empty for others.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd_base.hpp>
#include <ctrain/backend/math/sum_of_squares.hpp>
#include <ctrain/core/floating.hpp>

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__) || !(defined(__AVX2__) && defined(__FMA__) && defined(__F16C__))

namespace ctrain::simd {

inline constexpr bool native = false;
inline constexpr int tile_lanes = 4;

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
  int uncarried = 0;

  CTRAIN_INLINE void add_squares(const Lanes& a) {
    uncarried += width / 2;
    if (uncarried > ExactSum::most_uncarried) sum.carry(), uncarried = width / 2;
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

}  // namespace ctrain::simd
#endif
