// Conversions of 16 lanes at once give the bits that core/floating.hpp defines.
#include "oracle.hpp"

using namespace ctrain;

namespace {

/// A NaN is a NaN: only its payload may differ.
bool same(std::uint16_t lanes, std::uint16_t core) {
  fp16 a, b;
  a.bits = lanes, b.bits = core;
  return lanes == core || (std::isnan(float(a)) && std::isnan(float(b)));
}

/// Numbers of fp16 that 16 lanes narrow otherwise than core does, among x(0) to x(count - 1).
template <class X> int wrong_narrowings(std::int64_t count, X&& x) {
  int wrong = 0;
  for (std::int64_t first = 0; first < count; first += simd::width) {
    float wide[simd::width];
    fp16 halves[simd::width];
    for (int i = 0; i < simd::width; ++i) wide[i] = x(first + i);
    simd::store(halves, simd::load(wide, simd::All{}), simd::All{});
    for (int i = 0; i < simd::width; ++i) wrong += !same(halves[i].bits, fp16(wide[i]).bits);
  }
  return wrong;
}

}  // namespace

TEST_CASE("backend.half.lanes_widen_every_fp16_as_core_does") {
  int wrong = 0;
  for (int first = 0; first < 65536; first += simd::width) {
    fp16 halves[simd::width];
    float wide[simd::width];
    for (int i = 0; i < simd::width; ++i) halves[i].bits = std::uint16_t(first + i);
    simd::store(wide, simd::load(halves, simd::All{}), simd::All{});
    for (int i = 0; i < simd::width; ++i) {
      const float core = float(halves[i]);
      wrong += std::isnan(core) ? !std::isnan(wide[i])
                                : bits_as<std::uint32_t>(core) != bits_as<std::uint32_t>(wide[i]);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("backend.half.lanes_narrow_to_fp16_as_core_does") {
  const auto spread = [](std::int64_t i) { return bits_as<float>(std::uint32_t(i * 997)); };
  CHECK(wrong_narrowings((std::int64_t{1} << 32) / 997 / 16 * 16, spread) == 0);
  // Every fp16, the tie above it, and the floats beside both.
  const auto boundary = [](std::int64_t i) {
    fp16 low, high;
    low.bits = std::uint16_t(i / 8), high.bits = std::uint16_t(i / 8 + 1);
    const float at = i % 8 < 4 ? float(low) : (float(low) + float(high)) / 2;
    return i % 4 == 0 ? at : std::nextafter(at, i % 4 == 1 ? INFINITY : -INFINITY);
  };
  CHECK(wrong_narrowings(65536 * 8, boundary) == 0);
}

TEST_CASE("backend.half.pairs_interleave_two_rows") {
  fp16 pairs[2 * simd::width];
  float even[simd::width], odd[simd::width];
  for (int i = 0; i < simd::width; ++i) even[i] = float(i) + 0.1f, odd[i] = -float(i) * 1000.0f;
  simd::store_pairs(pairs, simd::load(even, simd::All{}), simd::load(odd, simd::All{}));
  for (int i = 0; i < simd::width; ++i) {
    CHECK(pairs[2 * i].bits == fp16(even[i]).bits);
    CHECK(pairs[2 * i + 1].bits == fp16(odd[i]).bits);
  }
}
