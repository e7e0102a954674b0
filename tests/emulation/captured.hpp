// A backend like a device's that records and replays a step: kernels are emulated, products are
// column-major loops, memory is an arena of its own that a host reaches by copies only.
#pragma once

#include <ctrain/backend/cuda/kernel_calls.hpp>
#include <ctrain/backend/row_calls.hpp>
#include <ctrain/memory/plan.hpp>

#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "emulation.hpp"
#include "products.hpp"

namespace emulation {

/// Memory of the emulated device, full of NaN: a step reads nothing that it has not written.
class DeviceArena {
 public:
  explicit DeviceArena(bytes size) : size_(size), memory_(new Line[std::size_t(size) / 64 + 1]) {
    std::memset(base(), 0xff, std::size_t(size));
  }
  std::byte* at(bytes offset, bytes count) {
    if (offset + count > high_water_) high_water_ = offset + count;
    return base() + offset;
  }
  std::byte* base() const { return reinterpret_cast<std::byte*>(memory_.get()); }
  bytes size() const { return size_; }
  bytes high_water() const { return high_water_; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  bytes size_ = 0, high_water_ = 0;
  std::unique_ptr<Line[]> memory_;
};

/// Work in order: done at once, or recorded by value.
class Work {
 public:
  using List = std::vector<std::function<void()>>;

  template <class Run> void add(Run&& run) {
    if (recorded_ != nullptr)
      recorded_->push_back(run);
    else
      run();
  }
  void record(List* to) { recorded_ = to; }
  bool records() const { return recorded_ != nullptr; }

 private:
  List* recorded_ = nullptr;
};

/// Models cuda::Stream in scratch that is lent once, as a device's is.
class CapturedStream {
 public:
  explicit CapturedStream(Work& work) : work_(work) {}
  void lend(void* memory, bytes size) { memory_ = memory, size_ = size; }
  template <class T> T* scratch(std::int64_t count) const {
    if (count * bytes(sizeof(T)) > size_ - library_workspace)
      throw std::logic_error("a call needs more scratch than the plan has");
    return reinterpret_cast<T*>(static_cast<std::byte*>(memory_) + library_workspace);
  }
  template <cuda::Kernel K> void launch(const K& kernel) {
    if (kernel.blocks() <= 0) return;
    ++launches;
    if constexpr (has_wide_heads<K>())
      throw std::logic_error("no policy here has such heads");
    else
      work_.add([kernel] { Grid(kernel, false).run(); });
  }

  int launches = 0;

 private:
  /// Attention that a compiler need not make: heads of these tests fit the smallest tile.
  template <class K> static constexpr bool has_wide_heads() {
    if constexpr (requires { typename K::Tile; })
      return K::Tile::groups * K::Tile::group > 8;
    else
      return false;
  }

  Work& work_;
  void* memory_ = nullptr;
  bytes size_ = 0;
};
static_assert(cuda::Stream<CapturedStream>);

/// Models cuda::ProductLibrary with every epilogue.
class CapturedProducts {
 public:
  explicit CapturedProducts(Work& work) : work_(work) {}
  bool try_to_run(const cuda::ProductShape& s, const cuda::ProductOperands& on) {
    run(s, on);
    return true;
  }
  void run(const cuda::ProductShape& s, const cuda::ProductOperands& on) {
    work_.add([s, on] { PlainProducts{{}}.run(s, on); });
  }

 private:
  Work& work_;
};

/// Models Replays. A step is recorded with all its arguments; where `is_walked` is set its host
/// walks it again each time instead, so that equal bits show that nothing of one step was recorded.
class Captured {
 public:
  using Arena = DeviceArena;
  using Recording = std::function<void()>;
  using Staging = std::vector<std::byte>;
  static constexpr bool joins_calls = true;

  Captured() : stream_(work_), products_(work_), calls_(stream_, products_, true) {}
  Captured(const Captured&) = delete;

  int workers() const { return 1; }
  void begin(const Policy&, void* scratch, bytes size) { stream_.lend(scratch, size); }
  double measured_peak(DType) const { return 1e9; }

  void read(void* host, const void* device, bytes count) {
    ++waits;
    copy(host, device, count);
  }
  void write(void* device, const void* host, bytes count) {
    ++waits;
    copy(device, host, count);
  }
  template <class Call> void run(const Call& call) { calls_.run(call); }

  template <class Body> Recording capture(Body&& body) {
    ++captures;
    if (is_walked) return body;
    calls_.flush();
    auto list = std::make_shared<Work::List>();
    work_.record(list.get());
    body();
    calls_.flush();
    work_.record(nullptr);
    return [list] {
      for (const auto& each : *list) each();
    };
  }
  void replay(const Recording& recording) {
    ++replays;
    recording();
    calls_.flush();
  }
  Staging staging(bytes size) const { return Staging(std::size_t(size)); }
  void write_later(void* device, const std::byte* staged, bytes count) {
    copy(device, staged, count);
  }
  void read_later(std::byte* staged, const void* device, bytes count) {
    copy(staged, device, count);
  }
  void synchronize() {
    ++waits;
    calls_.flush();
  }

  int launches() const { return stream_.launches; }
  bool is_walked = false;
  int waits = 0, captures = 0, replays = 0;  // a wait: what lets the host wait for the device

 private:
  void copy(void* to, const void* from, bytes count) {
    if (work_.records()) throw std::logic_error("a copy inside of what is recorded");
    calls_.flush();
    std::memcpy(to, from, std::size_t(count));
  }

  Work work_;
  CapturedStream stream_;
  CapturedProducts products_;
  cuda::KernelCalls<CapturedStream, CapturedProducts> calls_;
};

static_assert(Replays<Captured>);

}  // namespace emulation
