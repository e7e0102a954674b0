/// \file  Kernels on a device: the block, the one entry point, the stream that launches.   floor 5: backend
#pragma once

#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/cuda/status.hpp>
#include <ctrain/core/units.hpp>
#include <ctrain/memory/plan.hpp>

#include <cuda_runtime.h>

#include <limits>

namespace ctrain::cuda {

/// Models Block with the hardware's. Its functions carry both markers because kernels do; on a host
/// they are never called.
class DeviceBlock {
 public:
  CTRAIN_HOST_DEVICE int thread() const {
#ifdef __CUDA_ARCH__
    return int(threadIdx.x);
#else
    return 0;
#endif
  }
  CTRAIN_HOST_DEVICE std::int64_t index() const {
#ifdef __CUDA_ARCH__
    return std::int64_t(blockIdx.x);
#else
    return 0;
#endif
  }
  CTRAIN_HOST_DEVICE std::byte* shared() const {
#ifdef __CUDA_ARCH__
    extern __shared__ __align__(16) unsigned char bytes[];
    return reinterpret_cast<std::byte*>(bytes);
#else
    return nullptr;
#endif
  }
  CTRAIN_HOST_DEVICE void sync() const {
#ifdef __CUDA_ARCH__
    __syncthreads();
#endif
  }
  CTRAIN_HOST_DEVICE float shuffle_xor(float value, [[maybe_unused]] int mask) const {
#ifdef __CUDA_ARCH__
    return __shfl_xor_sync(0xffffffffu, value, mask);
#else
    return value;
#endif
  }
  CTRAIN_HOST_DEVICE std::uint32_t ballot(bool vote) const {
#ifdef __CUDA_ARCH__
    return __ballot_sync(0xffffffffu, vote);
#else
    return vote;
#endif
  }
};

static_assert(Block<DeviceBlock>);

/// Every kernel of this library enters here.
template <Kernel K>
__global__ void __launch_bounds__(K::threads, 1) enter(const __grid_constant__ K kernel) {
  DeviceBlock block;
  kernel(block);
}

/// Models Stream on a CUDA stream. Scratch and the library's workspace are one stretch of memory,
/// lent by a plan or taken when first needed; calls follow each other, so each has all of it.
class DeviceStream {
 public:
  DeviceStream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  /// A stream that someone else has, and destroys.
  explicit DeviceStream(cudaStream_t other) : stream_(other), is_mine_(false) {}
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;
  ~DeviceStream() {
    cudaFree(own_);
    if (is_mine_) cudaStreamDestroy(stream_);
  }

  /// Works in `size` bytes that a plan has for it, at least library_workspace of them.
  void lend(void* memory, bytes size) { memory_ = memory, size_ = size; }

  cudaStream_t handle() const { return stream_; }
  void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  template <class T> T* scratch(std::int64_t count) const {
    std::byte* memory = workspace();
    check_scratch(count * bytes(sizeof(T)), size_ - library_workspace);
    return reinterpret_cast<T*>(memory + library_workspace);
  }
  void* products_workspace() const { return workspace(); }

  template <Kernel K> void launch(const K& kernel) const {
    const std::int64_t blocks = kernel.blocks();
    if (blocks <= 0) return;
    const int shared = shared_bytes_of(kernel);
    if (shared > 48 * KiB) allow_shared<K>(shared);
    check_grid(blocks);
    enter<<<unsigned(blocks), K::threads, std::size_t(shared), stream_>>>(kernel);
    check(cudaGetLastError(), "kernel launch");
  }

 private:
  /// Once per kernel: above 48 KiB a kernel has to ask.
  template <Kernel K> static void allow_shared(int shared) {
    static thread_local int allowed = 0;
    if (shared <= allowed) return;
    check(cudaFuncSetAttribute(enter<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
          "cudaFuncSetAttribute(shared memory)");
    allowed = shared;
  }

  std::byte* workspace() const {
    if (memory_ == nullptr) {
      check(cudaMalloc(&own_, own_bytes), "cudaMalloc of a workspace");
      memory_ = own_, size_ = own_bytes;
    }
    return static_cast<std::byte*>(memory_);
  }

  /// Without a plan: 16 MiB of scratch, 64 row chunks of two float sums over 32,768 columns.
  static constexpr bytes own_bytes = library_workspace + 16 * MiB;

  cudaStream_t stream_ = nullptr;
  bool is_mine_ = true;
  mutable void* own_ = nullptr;
  mutable void* memory_ = nullptr;
  mutable bytes size_ = 0;
};

static_assert(Stream<DeviceStream>);

/// Seconds that what body() gives a stream takes there.
template <class Body> double seconds_on(cudaStream_t stream, Body&& body) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  check(cudaEventRecord(begin, stream), "cudaEventRecord");
  body();
  check(cudaEventRecord(end, stream), "cudaEventRecord");
  check(cudaEventSynchronize(end), "cudaEventSynchronize");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
  cudaEventDestroy(begin), cudaEventDestroy(end);
  return 1e-3 * double(milliseconds);
}

}  // namespace ctrain::cuda
