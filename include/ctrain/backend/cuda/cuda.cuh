/// \file  The backend of an NVIDIA device: cuBLASLt's products, kernels of our own, one stream.   floor 5: backend
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/cuda/attention.hpp>
#include <ctrain/backend/cuda/column_sums.hpp>
#include <ctrain/backend/cuda/device.hpp>
#include <ctrain/backend/cuda/dropout.hpp>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/cuda/embedding.hpp>
#include <ctrain/backend/cuda/head.hpp>
#include <ctrain/backend/cuda/launch.cuh>
#include <ctrain/backend/cuda/layer_norm.hpp>
#include <ctrain/backend/cuda/products.hpp>
#include <ctrain/backend/cuda/row_programs.hpp>
#include <ctrain/backend/cuda/update.hpp>

namespace ctrain {

/// A call that is kernels alone.
template <class Call>
concept HasCudaKernel = requires(const Call& call, cuda::DeviceStream& stream) {
  cuda::compute(call, stream);
};

/// Models Backend. run() returns at once: calls follow each other on one stream, and synchronize()
/// or read() waits for them. Pointers in calls are device addresses. For one thread. Takes
/// 48 MiB beside the arena (scratch and cuBLASLt's workspace), a part of Device::reserved.
class Cuda {
 public:
  using Arena = cuda::DeviceArena;

  /// What a card is asked for; fp32 products are exact unless `tf32`.
  struct Options {
    int device = 0;
    bool tf32 = false;
  };

  Cuda() : Cuda(Options{}) {}
  explicit Cuda(const Options& options)
      : stream_((cuda::select_device(options.device), cuda::DeviceStream())),
        products_(stream_.handle(), options.tf32) {}

  int workers() const { return 1; }
  cudaStream_t stream() const { return stream_.handle(); }
  void synchronize() const { stream_.synchronize(); }

  /// Device memory to a host, once everything before has been computed.
  void read(void* host, const void* device, bytes count) const {
    copy(host, device, count, cudaMemcpyDeviceToHost);
    synchronize();
  }
  /// Host memory to the device. The host's bytes are free again when it returns.
  void write(void* device, const void* host, bytes count) const {
    copy(device, host, count, cudaMemcpyHostToDevice);
    synchronize();
  }

  template <HasCudaKernel Call> void run(const Call& call) { cuda::compute(call, stream_); }

  /// A product of 16-bit operands takes its bias in their type, as cuBLASLt wants it.
  template <class T> void run(const LinearForward<T>& call) {
    const void* bias = call.bias;
    if constexpr (!std::is_same_v<T, float>) {
      T* rounded = stream_.scratch<T>(call.weight.out);
      cuda::convert(stream_, rounded, call.bias, call.weight.out);
      bias = rounded;
    }
    products_.run(cuda::shape_of(call), cuda::operand_of(call.weight), call.x, call.z, bias);
  }
  template <class T, class DX> void run(const LinearBackwardInput<T, DX>& call) {
    products_.run(cuda::shape_of(call), cuda::operand_of(call.weight), call.dz, call.dx);
  }
  template <class T, class G> void run(const LinearBackwardWeight<T, G>& call) {
    products_.run(cuda::shape_of(call), call.x, call.dz, call.d_weight);
    cuda::add_column_sums(call, stream_);
  }

  /// Clip and loss scale without the host: see cuda::UpdateState.
  void decide_update(cuda::UpdateState* state, const cuda::LossScaleRule& rule, float mean,
                     float clip) {
    cuda::decide_update(stream_, state, rule, mean, clip);
  }
  template <class G> void update(const AdamWUpdateOf<G>& call, const cuda::UpdateState* state) {
    cuda::update(call, stream_, state);
  }

 private:
  void copy(void* to, const void* from, bytes count, cudaMemcpyKind kind) const {
    cuda::check(cudaMemcpyAsync(to, from, std::size_t(count), kind, stream()), "cudaMemcpyAsync");
  }

  cuda::DeviceStream stream_;
  cuda::Products products_;
};

static_assert(Backend<Cuda>);

}  // namespace ctrain
