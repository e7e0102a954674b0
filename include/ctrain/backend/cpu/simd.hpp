/// \file  Sixteen floats at once: AVX-512 or AVX2 where the compiler has it, loops elsewhere.   floor 5: backend
#pragma once

#include <ctrain/backend/cpu/simd_avx2.hpp>
#include <ctrain/backend/cpu/simd_avx512.hpp>
#include <ctrain/backend/cpu/simd_loops.hpp>
#include <ctrain/core/philox.hpp>

#include <cstdint>

namespace ctrain::simd {

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
