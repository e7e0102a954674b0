/// \file  The device itself: whether there is one, and the one allocation that a plan takes there.   floor 5: backend
#pragma once

#include <ctrain/backend/cuda/status.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

namespace ctrain::cuda {

/// Exit code of a program that was built for a device and finds none.
inline constexpr int no_device_exit_code = 3;

/// 0 without a driver, too.
inline int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

/// First line of a CUDA program's main: says so and exits with 3 where there is no device.
/// `target`: the program's name, as the build knows it, without _cuda.
inline void require_device(const std::string& target) {
  if (device_count() > 0) return;
  std::fprintf(stderr, "error: no CUDA device; build target %s_cpu or set .device = host\n",
               target.c_str());
  std::exit(no_device_exit_code);
}

/// Makes `device` the calling thread's; throws Error if there is none of that number.
inline void select_device(int device) {
  if (device < 0 || device >= device_count())
    throw Error("CUDA",
                "device " + std::to_string(device) + " is asked for, the machine has " +
                    std::to_string(device_count()),
                "Start at most one rank per device, or build the CPU target");
  check(cudaSetDevice(device), "cudaSetDevice");
}

/// A first member: its device is the thread's before anything on it is made.
/// Below 0: it is already.
struct SelectedDevice {
  explicit SelectedDevice(int device) {
    if (device < 0) check(cudaGetDevice(&device), "cudaGetDevice");
    select_device(device);
  }
};

/// `size` bytes of zeroed device memory in one allocation. The same interface as Arena, but no host
/// may look inside. Throws Error if the device will not give it.
class DeviceArena {
 public:
  explicit DeviceArena(bytes size) : size_(size) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, std::size_t(size)),
          ("cudaMalloc of the plan's " + std::to_string(size) + " bytes").c_str());
    base_ = static_cast<std::byte*>(memory);
    check(cudaMemset(base_, 0, std::size_t(size)), "cudaMemset");
  }
  DeviceArena(DeviceArena&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)),
        size_(other.size_),
        high_water_(other.high_water_) {}
  DeviceArena& operator=(DeviceArena&&) = delete;
  ~DeviceArena() { cudaFree(base_); }

  /// The address of `count` bytes at `offset`; keeps the high-water mark.
  std::byte* at(bytes offset, bytes count) {
    if (offset + count > high_water_) high_water_ = offset + count;
    return base_ + offset;
  }
  std::byte* base() const { return base_; }
  bytes size() const { return size_; }
  bytes high_water() const { return high_water_; }

 private:
  std::byte* base_ = nullptr;
  bytes size_ = 0, high_water_ = 0;
};

}  // namespace ctrain::cuda
