/// \file  The backend of an NVIDIA device: cuBLASLt's products, kernels of our own, one stream.   floor 5: backend
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/cuda/device.hpp>
#include <ctrain/backend/cuda/graph.cuh>
#include <ctrain/backend/cuda/kernel_calls.hpp>
#include <ctrain/backend/cuda/launch.cuh>
#include <ctrain/backend/cuda/policy_products.hpp>
#include <ctrain/backend/cuda/products.cuh>

#include <algorithm>
#include <functional>
#include <utility>

namespace ctrain {

/// Models Backend. run() returns at once: calls follow each other on one stream, and synchronize()
/// or read() waits for them. Pointers in calls are device addresses. For one thread.
class Cuda {
 public:
  using Arena = cuda::DeviceArena;
  using Recording = cuda::RecordedGraph;
  using Staging = cuda::PinnedMemory;
  static constexpr bool joins_calls = true;

  /// `epilogues`: products take biases' gradients, GELU and its slope with them, where the library
  /// can.
  struct Options {
    int device = -1;  // the thread's own
    bool epilogues = true;
  };

  Cuda() : Cuda(Options{}) {}
  explicit Cuda(const Options& options)
      : device_(options.device),
        products_(stream_),
        calls_(stream_, products_, options.epilogues) {}

  int workers() const { return 1; }
  cudaStream_t stream() {
    calls_.flush();
    return stream_.handle();
  }
  void synchronize() {
    calls_.flush();
    wait();
  }
  /// `act` runs before a host waits for the stream, on which others' work may have stopped.
  void before_waiting(std::function<void()> act) { before_waiting_ = std::move(act); }
  /// Before a policy's steps; `scratch` is what its plan has for products and kernels.
  void begin(const Policy& policy, void* scratch, bytes size) {
    products_.use_tf32(policy.precision.compute == Compute::tf32);
    stream_.lend(scratch, size);
  }

  /// After begin(): chooses an algorithm for every product that a policy's steps ask for.
  void prepare_products(const Graph& graph, const Policy& policy) {
    for (const cuda::ProductShape& shape : cuda::products_of(graph, policy))
      products_.prepare(shape);
  }
  /// Products that have their algorithm: a step adds none.
  std::size_t prepared_products() const { return products_.shapes(); }

  /// Device memory to a host, once everything before has been computed.
  void read(void* host, const void* device, bytes count) {
    copy(host, device, count, cudaMemcpyDeviceToHost);
  }
  /// Host memory to the device. The host's bytes are free again when it returns.
  void write(void* device, const void* host, bytes count) {
    copy(device, host, count, cudaMemcpyHostToDevice);
  }

  /// What body() runs here and lets others do, recorded; it must have run once, so that libraries
  /// are loaded and memory is taken.
  template <class Body> cuda::RecordedGraph capture(Body&& body) {
    calls_.flush();
    return cuda::RecordedGraph(stream_.handle(), [&] {
      body();
      calls_.flush();
    });
  }
  void replay(cuda::RecordedGraph& graph) {
    calls_.flush();
    graph.replay(stream_.handle());
  }
  /// Host memory for the two copies that follow, which return at once: synchronize() waits for
  /// them.
  cuda::PinnedMemory staging(bytes size) const { return cuda::PinnedMemory(size); }
  void write_later(void* device, const std::byte* staged, bytes count) {
    copy_later(device, staged, count, cudaMemcpyHostToDevice);
  }
  void read_later(std::byte* staged, const void* device, bytes count) {
    copy_later(staged, device, count, cudaMemcpyDeviceToHost);
  }

  template <cuda::RunsOnDevice<cuda::DeviceStream> Call> void run(const Call& call) {
    calls_.run(call);
  }
  /// Operations a second of the card's own products, with operands of a type: the best of a few of
  /// 4,096 numbers a side, whose 192 MiB at most are taken for as long.
  double measured_peak(DType operand) {
    constexpr int side = 4096, times = 8;
    const cuda::ProductShape shape{side, side, side, true, false, operand, operand};
    const cuda::DeviceArena memory(3 * bytes{side} * side * size_of(operand));
    std::byte* const at = memory.base();
    const cuda::ProductOperands on{at, at + memory.size() / 3, at + memory.size() / 3 * 2};
    calls_.flush();
    double best = 0;
    for (int i = 0; i < times; ++i)
      best = std::max(best, 2.0 * side * side * side / cuda::seconds_on(stream_.handle(), [&] {
                              products_.run(shape, on);
                            }));
    return best;
  }

 private:
  void wait() {
    if (before_waiting_) before_waiting_();
    stream_.synchronize();
  }
  /// The host may wait within the call: its memory is none that the card reads by itself.
  void copy(void* to, const void* from, bytes count, cudaMemcpyKind kind) {
    calls_.flush();
    if (before_waiting_) before_waiting_();
    copy_later(to, from, count, kind);
    stream_.synchronize();
  }
  void copy_later(void* to, const void* from, bytes count, cudaMemcpyKind kind) {
    calls_.flush();
    cuda::check(cudaMemcpyAsync(to, from, std::size_t(count), kind, stream_.handle()),
                "cudaMemcpyAsync");
  }

  cuda::SelectedDevice device_;
  cuda::DeviceStream stream_;
  cuda::Products products_;
  cuda::KernelCalls<cuda::DeviceStream, cuda::Products> calls_;
  std::function<void()> before_waiting_;
};

static_assert(Replays<Cuda> && JoinsCalls<Cuda>);

}  // namespace ctrain
