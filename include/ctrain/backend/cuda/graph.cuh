/// \file  Work of a stream recorded once and replayed, and host memory that copies reach without a wait.   floor 5: backend
#pragma once

#include <ctrain/backend/cuda/status.hpp>
#include <ctrain/core/units.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace ctrain::cuda {

/// Everything that body() gives a stream, and what other streams do between events of it, as one
/// graph. Nothing of it runs before replay().
class RecordedGraph {
 public:
  template <class Body> RecordedGraph(cudaStream_t stream, Body&& body) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    cudaGraph_t recorded = nullptr;
    try {
      body();
    } catch (...) {
      cudaStreamEndCapture(stream, &recorded);
      if (recorded != nullptr) cudaGraphDestroy(recorded);
      throw;
    }
    check(cudaStreamEndCapture(stream, &recorded), "cudaStreamEndCapture");
    const cudaError_t status = cudaGraphInstantiateWithFlags(&graph_, recorded, 0);
    cudaGraphDestroy(recorded);
    check(status, "cudaGraphInstantiate");
  }
  RecordedGraph(RecordedGraph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  RecordedGraph& operator=(RecordedGraph&&) = delete;
  ~RecordedGraph() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }

  void replay(cudaStream_t stream) { check(cudaGraphLaunch(graph_, stream), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

/// Host memory that stays where it is, so that a device copies from and to it on its own.
class PinnedMemory {
 public:
  explicit PinnedMemory(bytes size) {
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, std::size_t(size), cudaHostAllocDefault), "cudaHostAlloc");
    data_ = static_cast<std::byte*>(memory);
  }
  PinnedMemory(PinnedMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  PinnedMemory& operator=(PinnedMemory&&) = delete;
  ~PinnedMemory() { cudaFreeHost(data_); }

  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

}  // namespace ctrain::cuda
