// What the backend tests share: random data, poisoned outputs, batches, and a comparison of every
// host backend with numbers computed in double.
#pragma once

#include <ctrain/backend/cpu/cpu.hpp>
#include <ctrain/backend/cpu/reference.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace oracle {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

/// The same numbers on every machine: mt19937's bits are standardised, the distributions are not.
class Random {
 public:
  explicit Random(std::uint32_t seed) : bits_(seed) {}

  double uniform() { return double(bits_()) / 4294967296.0; }
  int below(int bound) { return int(uniform() * bound); }
  /// Roughly normal: 4 uniforms, variance 1.
  float normal() {
    const double sum = uniform() + uniform() + uniform() + uniform();
    return float((sum - 2) * std::sqrt(3.0));
  }
  template <class T> std::vector<T> values(std::size_t count, float scale = 1) {
    std::vector<T> result(count);
    for (T& x : result) x = T(normal() * scale);
    return result;
  }

 private:
  std::mt19937 bits_;
};

/// An output before it is written.
template <class T> std::vector<T> poisoned(std::size_t count) {
  return std::vector<T>(count, T(std::numeric_limits<float>::quiet_NaN()));
}

template <class T> Doubles doubles(const std::vector<T>& from) {
  return Doubles(from.begin(), from.end());
}

template <class T> Floats floats(const std::vector<T>& from) {
  return Floats(from.begin(), from.end());
}

/// Outputs agree when |got - expected| <= share * largest |expected|. fp32: sums of n products in
/// another order differ by about sqrt(n) * 2^-24 of their terms. bf16: one rounding is 2^-9 of the
/// value; where float sums differ it may go to the other neighbour, 2^-8. fp16 has 3 bits more.
template <class T> inline constexpr double share = 4e-6;
template <> inline constexpr double share<ctrain::bf16> = 1.0 / 256;
template <> inline constexpr double share<ctrain::fp16> = 1.0 / 2048;

inline void require_near(const Floats& got, const Doubles& expected, double tolerance,
                         const std::string& what) {
  REQUIRE(got.size() == expected.size());
  double largest = 1e-30, worst = 0;
  for (double x : expected) largest = std::max(largest, std::fabs(x));
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(double(got[i]) - expected[i]);
    worst = error <= worst ? worst : error;  // NaN becomes the worst
    if (!(error <= tolerance * largest)) {
      INFO(what << ": element " << i << " is " << got[i] << ", expected " << expected[i]
                << ", largest " << largest);
      REQUIRE(error <= tolerance * largest);
    }
  }
  CHECK(worst <= tolerance * largest);
}

inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), sizeof(float) * a.size()) == 0;
}

using Panels = ctrain::CpuWith<ctrain::cpu::PanelProducts>;
using Library = ctrain::CpuWith<ctrain::cpu::LibraryProducts>;

/// run(backend) gives a call's outputs. The reference, and the backends with panels and with
/// oneDNN, must come near what is expected; panels must give the same bits with 1 and 2 workers.
template <class Run>
void on_every_backend(Run&& run, const std::vector<Doubles>& expected,
                      const std::vector<double>& tolerances) {
  ctrain::CpuReference reference;
  Panels one(1), two(2);
  Library library(2);
  const std::vector<Floats> plain = run(reference), alone = run(one), together = run(two),
                            with_library = run(library);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::string output = " output " + std::to_string(i);
    require_near(plain[i], expected[i], tolerances[i], "reference" + output);
    require_near(alone[i], expected[i], tolerances[i], "panels" + output);
    require_near(with_library[i], expected[i], tolerances[i], "library" + output);
    INFO("1 and 2 workers," << output);
    CHECK(same_bits(alone[i], together[i]));
  }
}

/// d loss / d x[i] for every i by central differences; loss() reads x.
template <class Loss> Doubles slopes(Doubles& x, Loss&& loss) {
  Doubles result(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double at = x[i], step = 1e-5;
    x[i] = at + step;
    const double above = loss();
    x[i] = at - step;
    result[i] = (above - loss()) / (2 * step);
    x[i] = at;
  }
  return result;
}

inline double dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// A micro-batch that owns its buffers.
struct OwnedBatch {
  std::vector<std::int32_t> token_ids, token_types, positions, first_row, lengths, labels;
  std::vector<std::uint32_t> row_keys;
  int rows = 0, longest = 0;

  int sentences() const { return int(lengths.size()); }
  ctrain::BatchView view() {
    return {token_ids.data(), token_types.data(), positions.data(), row_keys.data(),
            first_row.data(), lengths.data(),     labels.data(),    rows,
            sentences()};
  }
};

/// Sentences of 1..longest tokens end to end, then `tail` rows of no sentence; padded: each takes
/// `longest` rows. Every third sentence has no label.
inline OwnedBatch random_batch(Random& random, int sentences, int longest, int tail, bool padded,
                               int vocabulary = 40, int classes = 3) {
  OwnedBatch batch;
  batch.longest = longest;
  for (int s = 0; s < sentences; ++s) {
    const int length = s == 0 ? longest : s == 1 ? 1 : 1 + random.below(longest);
    batch.first_row.push_back(batch.rows);
    batch.lengths.push_back(length);
    batch.labels.push_back(s % 3 == 2 ? -1 : random.below(classes));
    for (int i = 0; i < (padded ? longest : length); ++i, ++batch.rows) {
      batch.token_ids.push_back(i < length ? random.below(vocabulary) : 0);
      batch.token_types.push_back(i < length ? random.below(2) : 0);
      batch.positions.push_back(i);
      batch.row_keys.push_back(std::uint32_t(s * 512 + i));
    }
  }
  batch.first_row.push_back(batch.rows);
  for (int i = 0; i < tail; ++i, ++batch.rows) {
    batch.token_ids.push_back(0), batch.token_types.push_back(0), batch.positions.push_back(0);
    batch.row_keys.push_back(0);
  }
  return batch;
}

/// The factor of an element as core/philox.hpp defines it: 0 or dropout_scale.
inline double kept(const ctrain::Dropout& dropout, int row, int element) {
  if (dropout.threshold == 0) return 1;
  const std::uint32_t token = dropout.row_keys[dropout.first_row ? dropout.first_row[row] : row];
  const bool drop =
      ctrain::dropout_draw(dropout.key(), token, std::uint32_t(element)) < dropout.threshold;
  return drop ? 0.0 : double(ctrain::dropout_scale(dropout.threshold));
}

inline ctrain::Dropout dropout(OwnedBatch& batch, float probability) {
  static constexpr ctrain::StepNumbers numbers{.seed = 0x123456789abcdefull, .step = 7};
  return {&numbers, 11, ctrain::dropout_threshold(probability), batch.row_keys.data(), nullptr};
}

}  // namespace oracle
