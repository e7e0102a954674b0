// What the emulation tests share: a backend whose kernels are emulated, buffers between guards, and
// a comparison with the reference.
#pragma once

#include <ctrain/backend/cuda/attention.hpp>
#include <ctrain/backend/cuda/column_sums.hpp>
#include <ctrain/backend/cuda/dropout.hpp>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/cuda/embedding.hpp>
#include <ctrain/backend/cuda/head.hpp>
#include <ctrain/backend/cuda/layer_norm.hpp>
#include <ctrain/backend/cuda/residual_norm.hpp>
#include <ctrain/backend/cuda/row_programs.hpp>
#include <ctrain/backend/cuda/update.hpp>

#include <functional>

#include "../unit/backend/oracle.hpp"
#include "emulation.hpp"

namespace emulation {

using oracle::Doubles;
using oracle::Floats;

/// Models Backend: the kernels of backend/cuda, emulated; products are the reference's.
struct Emulated {
  explicit Emulated(bool backwards = false) : stream(backwards) {}

  int workers() const { return 1; }

  template <class Call> void run(const Call& call) { ctrain::cuda::compute(call, stream); }
  template <class T> void run(const ctrain::LinearForward<T>& call) { reference.run(call); }
  template <class T, class DX> void run(const ctrain::LinearBackwardInput<T, DX>& call) {
    reference.run(call);
  }
  template <class T, class G> void run(const ctrain::LinearBackwardWeight<T, G>& call) {
    std::vector<float> unused(std::size_t(call.out));
    ctrain::LinearBackwardWeight<T, G> product = call;
    product.d_bias = unused.data();
    reference.run(product);
    ctrain::cuda::add_column_sums(call, stream);
  }

  Stream stream;
  ctrain::CpuReference reference;
};

/// `count` elements at a 64-byte boundary plus `shift` elements, with guards on both sides.
template <class T> class Buffer {
 public:
  explicit Buffer(std::size_t count, int shift = 0) : Buffer(oracle::poisoned<T>(count), shift) {}
  explicit Buffer(const std::vector<T>& values, int shift = 0)
      : bytes_(values.size() * sizeof(T) + 4 * guard, sign), count_(values.size()) {
    auto* start = bytes_.data() + guard;
    start += 64 - reinterpret_cast<std::uintptr_t>(start) % 64;
    data_ = reinterpret_cast<T*>(start) + shift;
    std::memcpy(static_cast<void*>(data_), values.data(), count_ * sizeof(T));
  }
  T* data() { return data_; }
  /// The values; fails where something outside was written.
  std::vector<T> values() const {
    const auto* start = reinterpret_cast<const std::uint8_t*>(data_);
    for (const std::uint8_t* b = bytes_.data(); b < start; ++b) REQUIRE(*b == sign);
    for (const std::uint8_t* b = start + count_ * sizeof(T); b < bytes_.data() + bytes_.size(); ++b)
      REQUIRE(*b == sign);
    return std::vector<T>(data_, data_ + count_);
  }
  Floats floats() const { return oracle::floats(values()); }

 private:
  static constexpr std::size_t guard = 256;
  static constexpr std::uint8_t sign = 0xa5;
  std::vector<std::uint8_t> bytes_;
  std::size_t count_;
  T* data_ = nullptr;
};

/// What the kernels that this process has run are made of.
inline std::set<std::string>& kernels_run() {
  static std::set<std::string> names;
  return names;
}

/// What emulated calls came to, threads forwards and backwards.
inline void compare(const std::vector<Floats>& expected, const std::vector<Floats>& got,
                    const std::vector<Floats>& other, const std::vector<double>& tolerances) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    INFO("output " << i);
    CHECK(oracle::same_bits(got[i], other[i]));
    if (tolerances[i] == 0)
      CHECK(oracle::same_bits(got[i], expected[i]));
    else
      oracle::require_near(got[i], oracle::doubles(expected[i]), tolerances[i],
                           "emulated output " + std::to_string(i));
  }
}

/// run(backend) gives a call's outputs. Emulated ones must come near the reference's, `exactly`
/// where the tolerance is 0, and must not depend on the order of threads.
template <class Run> void agrees(const Run& run, const std::vector<double>& tolerances) {
  ctrain::CpuReference reference;
  Emulated forwards(false), backwards(true);
  const std::vector<Floats> expected = run(reference), got = run(forwards);
  compare(expected, got, run(backwards), tolerances);
  kernels_run().merge(forwards.stream.names);
}

}  // namespace emulation
