#include <ctrain/core/philox.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

namespace {

using namespace ctrain;

// Scaling keeps the mean: what survives, times the scale, is what there was.
static_assert(dropout_threshold(0.1f) == 6554 && dropout_threshold(0) == 0);
static_assert(dropout_scale(0) == 1.0f && dropout_scale(32768) == 2.0f);
static_assert(dropout_threshold(0.999f) < 65536);

constexpr DropoutKey key{.seed = 0x123456789abcdef0u, .step = 7, .layer_site = 11};
constexpr int tokens = 512, elements = 2048;

/// Draws of a (tokens, elements) plane.
std::vector<std::uint32_t> plane(DropoutKey k, std::uint32_t first_token = 0) {
  std::vector<std::uint32_t> draws;
  for (std::uint32_t t = 0; t < tokens; ++t)
    for (std::uint32_t e = 0; e < elements; ++e)
      draws.push_back(dropout_draw(k, first_token + t, e));
  return draws;
}

/// Pearson's correlation, of two samples of the same uniform distribution.
double correlation(const std::vector<std::uint32_t>& a, const std::vector<std::uint32_t>& b,
                   std::size_t shift = 0) {
  double sum = 0;
  for (std::size_t i = 0; i + shift < a.size(); ++i)
    sum += (double(a[i]) - 32767.5) * (double(b[i + shift]) - 32767.5);
  return sum / double(a.size() - shift) / (65536.0 * 65536.0 / 12);
}
// With n pairs the correlation of independent draws has a deviation of 1 / sqrt(n): 0.001 here.
constexpr double five_deviations = 0.005;

}  // namespace

TEST_CASE("core.philox.draws_are_uniform") {
  std::vector<double> counts(256);
  const std::vector<std::uint32_t> draws = plane(key);
  for (const std::uint32_t d : draws) {
    REQUIRE(d < 65536);
    ++counts[d >> 8];
  }
  const double expected = double(draws.size()) / 256;
  double chi_squared = 0;
  for (const double c : counts) chi_squared += (c - expected) * (c - expected) / expected;
  CHECK(std::fabs(chi_squared - 255) < 5 * std::sqrt(2.0 * 255));
}

TEST_CASE("core.philox.the_share_dropped_is_the_probability") {
  const std::uint32_t threshold = dropout_threshold(0.1f);
  double dropped = 0;
  for (const std::uint32_t d : plane(key)) dropped += d < threshold;
  const double n = double(tokens) * elements, p = threshold / 65536.0;
  CHECK(std::fabs(dropped / n - p) < 5 * std::sqrt(p * (1 - p) / n));
}

TEST_CASE("core.philox.neighbours_know_nothing_of_each_other") {
  const std::vector<std::uint32_t> draws = plane(key);
  for (const std::size_t shift : {1, 2, 8, 16, 64, 128, elements})
    CHECK(std::fabs(correlation(draws, draws, shift)) < five_deviations);
}

TEST_CASE("core.philox.seed_step_layer_site_and_token_all_matter") {
  const std::vector<std::uint32_t> draws = plane(key);
  DropoutKey seed = key, high_seed = key, step = key, site = key;
  seed.seed += 1;
  high_seed.seed += std::uint64_t{1} << 32;
  step.step += 1;
  site.layer_site += 1;
  for (const DropoutKey& other : {seed, high_seed, step, site})
    CHECK(std::fabs(correlation(draws, plane(other))) < five_deviations);
  CHECK(std::fabs(correlation(draws, plane(key, tokens))) < five_deviations);
}

TEST_CASE("core.philox.sixteen_calls_serve_a_group_of_128_without_reuse") {
  std::set<std::pair<std::uint32_t, std::uint32_t>> used;
  for (std::uint32_t e = 0; e < 256; ++e) {
    const std::uint32_t call = e / 128 * 16 + e % 16, half = e % 128 / 16;
    const Words w = philox({call, 5, key.layer_site, key.step}, std::uint32_t(key.seed),
                           std::uint32_t(key.seed >> 32));
    const std::uint32_t words[] = {w.x, w.y, w.z, w.w};
    CHECK(dropout_draw(key, 5, e) ==
          (half % 2 ? words[half / 2] >> 16 : words[half / 2] & 0xffffu));
    used.insert({call, half});
  }
  CHECK(used.size() == 256);
}
