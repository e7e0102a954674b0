// What the GPU tests share: data in host and device memory at once, and a comparison of what the
// reference made of the one with what the CUDA backend made of the other. No test framework: a
// machine with a card needs the toolkit, g++ and Eigen, nothing else.
#pragma once

#include <ctrain/backend/cpu/reference.hpp>
#include <ctrain/backend/cuda/cuda.cuh>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace gpu {

using namespace ctrain;

/// The same numbers on every machine, roughly normal.
class Random {
 public:
  explicit Random(std::uint32_t seed) : bits_(seed) {}
  double uniform() { return double(bits_()) / 4294967296.0; }
  int below(int bound) { return int(uniform() * bound); }
  float normal() {
    const double sum = uniform() + uniform() + uniform() + uniform();
    return float((sum - 2) * std::sqrt(3.0));
  }

 private:
  std::mt19937 bits_;
};

/// `count` elements on the host and as many on the device.
template <class T> class Pair {
 public:
  explicit Pair(std::vector<T> values) : host_(std::move(values)) { upload(); }
  Pair(Random& random, std::size_t count, float scale = 1) : host_(count) {
    for (T& x : host_) x = T(random.normal() * scale);
    upload();
  }
  /// An output: bits that are NaN, so that what is not written shows.
  static Pair output(std::size_t count) {
    std::vector<T> values(count);
    std::memset(static_cast<void*>(values.data()), 0xff, count * sizeof(T));
    return Pair(std::move(values));
  }
  Pair(Pair&& other) noexcept
      : host_(std::move(other.host_)), device_(std::exchange(other.device_, nullptr)) {}
  ~Pair() { cudaFree(device_); }

  T* host() { return host_.data(); }
  T* device() { return device_; }
  std::size_t size() const { return host_.size(); }
  std::vector<T> download() const {
    std::vector<T> values(host_.size());
    cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    cuda::check(cudaMemcpy(values.data(), device_, values.size() * sizeof(T), cudaMemcpyDefault),
                "cudaMemcpy");
    return values;
  }

 private:
  void upload() {
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, host_.size() * sizeof(T) + 16), "cudaMalloc");
    device_ = static_cast<T*>(memory);
    cuda::check(cudaMemcpy(device_, host_.data(), host_.size() * sizeof(T), cudaMemcpyDefault),
                "cudaMemcpy");
  }

  std::vector<T> host_;
  T* device_ = nullptr;
};

/// at(pair): the address on the side that a call is being made for.
struct OnHost {
  template <class T> T* operator()(Pair<T>& pair) const { return pair.host(); }
};
struct OnDevice {
  template <class T> T* operator()(Pair<T>& pair) const { return pair.device(); }
};

/// Sentences laid end to end, or padded to the longest, and rows of no sentence after them.
struct Sentences {
  Pair<std::int32_t> token_ids, token_types, positions, first_row, lengths, labels;
  Pair<std::uint32_t> row_keys;
  int rows = 0, sentences = 0;

  template <class At> BatchView view(const At& at) {
    return {at(token_ids), at(token_types), at(positions), at(row_keys), at(first_row),
            at(lengths),   at(labels),      rows,          sentences};
  }
  static Sentences random(Random& random, int sentences, int longest, int tail, bool padded,
                          int vocabulary, int classes) {
    std::vector<std::int32_t> ids, types, positions, first, lengths, labels;
    std::vector<std::uint32_t> keys;
    for (int s = 0; s < sentences; ++s) {
      const int length = s == 0 ? longest : 1 + random.below(longest);
      first.push_back(int(ids.size()));
      lengths.push_back(length);
      labels.push_back(s % 3 == 2 ? -1 : random.below(classes));
      for (int i = 0; i < (padded ? longest : length); ++i) {
        ids.push_back(i < length ? random.below(vocabulary) : 0);
        types.push_back(i < length ? random.below(2) : 0);
        positions.push_back(i);
        keys.push_back(std::uint32_t(s * 512 + i));
      }
    }
    first.push_back(int(ids.size()));
    const auto rows = ids.size() + std::size_t(tail);
    ids.resize(rows), types.resize(rows), positions.resize(rows), keys.resize(rows);
    return {Pair(ids),    Pair(types), Pair(positions), Pair(first), Pair(lengths),
            Pair(labels), Pair(keys),  int(rows),       sentences};
  }
};

/// Counts what agreed, and says what did not.
class Report {
 public:
  /// |got - expected| <= tolerance * largest |expected|; 0: the same bits.
  template <class T> void compare(const std::string& what, Pair<T>& pair, double tolerance) {
    const std::vector<T> got = pair.download();
    double largest = 1e-30, worst = 0;
    bool same = true;
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double wanted = double(float(pair.host()[i]));
      largest = std::fmax(largest, std::fabs(wanted));
      const double error = std::fabs(double(float(got[i])) - wanted);
      worst = error <= worst ? worst : error;  // NaN becomes the worst
      same = same && std::memcmp(&got[i], &pair.host()[i], sizeof(T)) == 0;
    }
    say(what, tolerance == 0 ? same : worst <= tolerance * largest, worst / largest, tolerance);
  }
  void say(const std::string& what, bool good, double found, double bound) {
    ++compared_;
    if (good) return;
    ++failed_;
    std::printf("FAILED %s: %.3g, bound %.3g\n", what.c_str(), found, bound);
  }
  /// The last line, and the exit code.
  int end(const char* program) const {
    std::printf("%s: %d of %d comparisons agree\n", program, compared_ - failed_, compared_);
    return failed_ == 0 && compared_ > 0 ? 0 : 1;
  }

 private:
  int compared_ = 0, failed_ = 0;
};

/// Each make(at) builds a call; the reference runs it on the host, Cuda on the device.
template <class... Make> void run_both(CpuReference& reference, Cuda& cuda, Make&&... makes) {
  (reference.run(makes(OnHost{})), ...);
  (cuda.run(makes(OnDevice{})), ...);
  cuda.synchronize();
}

/// As tests/unit/backend/oracle.hpp: sums in another order in fp32; one rounding in 16 bits.
template <class T> inline constexpr double share = 4e-6;
template <> inline constexpr double share<bf16> = 1.0 / 256;
template <> inline constexpr double share<fp16> = 1.0 / 2048;

}  // namespace gpu
