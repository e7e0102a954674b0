/// \file  The machine's own peak of multiply-adds, measured in the running process.   floor 5: backend
#pragma once

#include <ctrain/core/floating.hpp>

#include <omp.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace ctrain::cpu {

namespace peak {

/// Keeps `chains` independent accumulators busy for `rounds` rounds; returns operations done.
inline double fp32_round(std::int64_t rounds, float& sink) {
#if defined(__AVX512F__)
  constexpr int lanes = 16;
#else
  constexpr int lanes = 8;  // more would not stay in registers
#endif
  constexpr int chains = 12;
  typedef float Vector __attribute__((vector_size(4 * lanes)));
  Vector sum[chains], a, b;
  volatile float one = 1.0f, small = 1e-9f;  // so that no compiler computes the sum itself
  for (int lane = 0; lane < lanes; ++lane) a[lane] = one, b[lane] = small;
  for (Vector& s : sum) s = a;
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) sum[c] = sum[c] * a + b;
  }
  for (const Vector& s : sum) sink += s[0] * 1e-30f;
  return 2.0 * lanes * chains * double(rounds);
}

#if defined(__AVX512BF16__)
inline double bf16_round(std::int64_t rounds, float& sink) {
  constexpr int chains = 14;
  __m512 sum[chains];
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = a;
  for (__m512& s : sum) s = _mm512_set1_ps(sink);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 14
    for (int c = 0; c < chains; ++c) sum[c] = _mm512_dpbf16_ps(sum[c], a, b);
  }
  for (const __m512& s : sum) sink += s[0] * 1e-30f;
  return 2.0 * 32 * chains * double(rounds);
}
#else
/// Without bf16 instructions, bf16 products run at the fp32 rate at best.
inline double bf16_round(std::int64_t rounds, float& sink) {
  return fp32_round(rounds, sink);
}
#endif

}  // namespace peak

/// Multiply-adds a second (two operations each) of `threads` threads at full tilt with nothing but
/// registers, in operations: the best of five measurements of about 20 ms.
inline double measured_peak(DType type, int threads = omp_get_max_threads()) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  constexpr std::int64_t rounds = 6'000'000;
  for (int attempt = 0; attempt < 5; ++attempt) {
    double operations = 0;
    const auto start = Clock::now();
#pragma omp parallel num_threads(threads) reduction(+ : operations)
    {
      float sink = 0;
      operations +=
          type == DType::bf16 ? peak::bf16_round(rounds, sink) : peak::fp32_round(rounds, sink);
      operations += double(sink);  // keeps the work alive; rounds to nothing
    }
    best = std::max(best, operations / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace ctrain::cpu
