/// \file  The inner loop of every matrix product: a tile of sums that never leaves the registers.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace ctrain::cpu {

/// A product takes its operands in words of 32 bits: a float, or two bf16 neighbours along the sum.
template <class T> inline constexpr int word_group = 4 / int(sizeof(T));

inline constexpr int tile_height = 6;    // rows of a tile: 6 x 64 sums fill 24 of 32 registers
inline constexpr int panel_width = 64;   // columns of a tile and of a panel
inline constexpr int panel_steps = 256;  // words along the sum in a panel: 64 KiB, read from L2

using Word = std::uint32_t;

/// sums (+)= a b: `height` x `columns` sums over `steps` words. Rows of `a` are words along the
/// sum, `a_row` bytes apart; b is a panel of (steps, panel_width) words. `ahead`: the `a` of the
/// call that follows, asked for on the way; may lie outside any object.
struct TileProduct {
  const std::byte* a = nullptr;
  std::ptrdiff_t a_row = 0;
  const std::byte* ahead = nullptr;
  const Word* b = nullptr;
  int steps = 0;
  float* sums = nullptr;
  std::ptrdiff_t sums_row = 0;  // floats from row to row
  int height = 0, columns = 0;
  bool add = false;
};

/// Whether this build has the tiles of T.
template <class T> inline constexpr bool has_tiles = false;

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(__CUDACC__)

template <> inline constexpr bool has_tiles<float> = true;
#if defined(__AVX512BF16__)
template <> inline constexpr bool has_tiles<bf16> = true;
#endif

namespace tile {

CTRAIN_INLINE __m512i same_words(const std::byte* from) {
  int word;
  std::memcpy(&word, from, sizeof word);
  return _mm512_set1_epi32(word);
}

/// sum + a b for each of 16 words.
template <class T> CTRAIN_INLINE __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
#if defined(__AVX512BF16__)
  if constexpr (word_group<T> == 2) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#endif
  return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

/// `Rows` x 16 * `Vectors` sums. Rows beyond the tile's height repeat its last one.
template <class T, int Rows, int Vectors> void multiply(const TileProduct& t) {
  constexpr int line = 64, steps_of_line = 16;
  std::ptrdiff_t row[Rows];
  float* to[Rows];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
    row[r] = std::min(r, t.height - 1) * t.a_row;
    to[r] = t.sums + std::min(r, t.height - 1) * t.sums_row;
  }
  const __mmask16 last = __mmask16((1u << (t.columns - 16 * (Vectors - 1))) - 1u);
  const auto touched = [&](int v) { return v == Vectors - 1 ? last : __mmask16(0xffff); };
  const __mmask16 before = t.add ? 0xffff : 0;
  __m512 sum[Rows][Vectors];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v)
      sum[r][v] = _mm512_maskz_loadu_ps(__mmask16(touched(v) & before), to[r] + 16 * v);
  const std::byte *a = t.a, *ahead = t.ahead;
  const Word* b = t.b;
  const auto step = [&] {
    __m512i right[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) right[v] = _mm512_loadu_si512(b + 16 * v);
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      const __m512i left = same_words(a + row[r]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[r][v] = multiply_add<T>(sum[r][v], left, right[v]);
    }
    a += sizeof(Word), b += panel_width;
  };
  int steps = t.steps;
  for (; steps >= steps_of_line; steps -= steps_of_line) {
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r)
      _mm_prefetch(reinterpret_cast<const char*>(ahead + row[r]), _MM_HINT_T0);
    ahead += line;
    for (int s = 0; s < steps_of_line; ++s) step();
  }
  for (; steps > 0; --steps) step();
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) _mm512_mask_storeu_ps(to[r] + 16 * v, touched(v), sum[r][v]);
}

template <class T, int Vectors> void multiply_columns(const TileProduct& t) {
  if (t.height > 4) return multiply<T, 6, Vectors>(t);
  if (t.height > 2) return multiply<T, 4, Vectors>(t);
  multiply<T, 2, Vectors>(t);
}

}  // namespace tile

template <class T> void multiply_tile(const TileProduct& t) {
  switch ((t.columns + 15) / 16) {
    case 4:
      return tile::multiply_columns<T, 4>(t);
    case 3:
      return tile::multiply_columns<T, 3>(t);
    case 2:
      return tile::multiply_columns<T, 2>(t);
    default:
      return tile::multiply_columns<T, 1>(t);
  }
}

#endif

}  // namespace ctrain::cpu
