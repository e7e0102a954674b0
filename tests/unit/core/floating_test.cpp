#include <ctrain/core/floating.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace {

using ctrain::bf16;
using ctrain::bits_as;
using ctrain::fp16;

struct Format {
  int mantissa_bits, least_exponent, greatest_exponent;
};
constexpr Format bf16_format{7, -126, 127}, fp16_format{10, -14, 15};

/// x rounded to the format: nearest, ties to even, in double arithmetic, which is exact here.
double rounded(float x, Format f) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent = 0;
  std::frexp(x, &exponent);
  const double quantum =
      std::ldexp(1.0, std::max(exponent - 1, f.least_exponent) - f.mantissa_bits);
  const double result = std::nearbyint(x / quantum) * quantum;
  const double limit = std::ldexp(1.0, f.greatest_exponent + 1);
  return std::fabs(result) < limit ? result : std::copysign(INFINITY, x);
}

/// What the bits say, by the definition of the format.
double meaning(std::uint16_t bits, Format f) {
  const int mantissa = bits & ((1 << f.mantissa_bits) - 1),
            exponent = (bits & 0x7fff) >> f.mantissa_bits;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 2 * f.greatest_exponent + 1) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, f.least_exponent - f.mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << f.mantissa_bits),
                           exponent - f.greatest_exponent - f.mantissa_bits);
}

template <class T> bool same(T found, double wanted) {
  if (std::isnan(wanted)) return std::isnan(float(found));
  return double(float(found)) == wanted && std::signbit(float(found)) == std::signbit(wanted);
}

template <class T> int wrong_widenings(Format f) {
  int wrong = 0;
  for (int bits = 0; bits < 65536; ++bits) {
    T value;
    value.bits = std::uint16_t(bits);
    wrong += !same(value, meaning(value.bits, f));
  }
  return wrong;
}
template <class T> int wrong_round_trips(Format f) {
  int wrong = 0;
  for (int bits = 0; bits < 65536; ++bits) {
    T value;
    value.bits = std::uint16_t(bits);
    const double wanted = meaning(value.bits, f);
    if (!std::isnan(wanted)) wrong += T(float(value)).bits != value.bits;
  }
  return wrong;
}
/// Around every number of the format and every tie between two neighbours.
template <class T> int wrong_at_boundaries(Format f) {
  int wrong = 0;
  for (int bits = 0; bits < 65536; ++bits) {
    const double low = meaning(std::uint16_t(bits), f), high = meaning(std::uint16_t(bits + 1), f);
    if (!std::isfinite(low)) continue;
    const double next =
        std::isfinite(high) ? high : low + (low - meaning(std::uint16_t(bits - 1), f));
    for (const double at : {low, (low + next) / 2})
      for (const float x :
           {float(at), std::nextafter(float(at), INFINITY), std::nextafter(float(at), -INFINITY)})
        wrong += !same(T(x), rounded(x, f));
  }
  return wrong;
}
/// Floats all over, 97 bit patterns apart.
template <class T> int wrong_narrowings(Format f) {
  int wrong = 0;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 97) {
    const float x = bits_as<float>(std::uint32_t(bits));
    wrong += !same(T(x), rounded(x, f));
  }
  return wrong;
}

template <class T> void check_all(Format f) {
  CHECK(wrong_widenings<T>(f) == 0);
  CHECK(wrong_round_trips<T>(f) == 0);
  CHECK(wrong_at_boundaries<T>(f) == 0);
  CHECK(wrong_narrowings<T>(f) == 0);
  CHECK(std::isnan(float(T(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(std::isnan(float(T(bits_as<float>(0x7f800001u)))));  // a NaN whose payload is cut off
  CHECK(std::isinf(float(T(INFINITY))));
}

}  // namespace

TEST_CASE("core.floating.bf16_rounds_to_nearest_even_everywhere") {
  check_all<bf16>(bf16_format);
}
TEST_CASE("core.floating.fp16_rounds_to_nearest_even_everywhere") {
  check_all<fp16>(fp16_format);
}
