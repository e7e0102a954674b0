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
#include <ctrain/backend/cuda/products.cuh>
#include <ctrain/backend/cuda/row_programs.hpp>
#include <ctrain/backend/cuda/update.hpp>

#include <concepts>
#include <utility>
#include <variant>

namespace ctrain {

/// A call that is kernels alone.
template <class Call>
concept HasCudaKernel = requires(const Call& call, cuda::DeviceStream& stream) {
  cuda::compute(call, stream);
};

/// A call that is a product.
template <class Call> inline constexpr bool is_product = false;
template <class T> inline constexpr bool is_product<LinearForward<T>> = true;
template <class T, class DX> inline constexpr bool is_product<LinearBackwardInput<T, DX>> = true;
template <class T, class G> inline constexpr bool is_product<LinearBackwardWeight<T, G>> = true;
template <class Call>
concept RunsOnCuda = HasCudaKernel<Call> || is_product<Call>;

/// Products that may become one with the call after them.
using HeldProduct = std::variant<std::monostate, LinearForward<float>, LinearForward<bf16>,
                                 LinearForward<fp16>, LinearBackwardInput<float, float>,
                                 LinearBackwardInput<bf16, bf16>, LinearBackwardInput<fp16, fp16>>;
template <class Call, class Held> inline constexpr bool is_one_of = false;
template <class Call, class... Held>
inline constexpr bool is_one_of<Call, std::variant<Held...>> = (std::same_as<Call, Held> || ...);
template <class Call>
concept CanBeCompleted = is_one_of<Call, HeldProduct>;

/// Models Backend. run() returns at once: calls follow each other on one stream, and synchronize()
/// or read() waits for them. Pointers in calls are device addresses. For one thread. A product is
/// held back until the next call, with which it may be one: GELU after a layer, GELU's slope after
/// a layer's gradient.
class Cuda {
 public:
  using Arena = cuda::DeviceArena;

  /// What a card is asked for; fp32 products are exact unless `tf32`. `epilogues`: products take
  /// biases' gradients, GELU and its slope with them, where the library can.
  struct Options {
    int device = 0;
    bool tf32 = false;
    bool epilogues = true;
  };

  Cuda() : Cuda(Options{}) {}
  explicit Cuda(const Options& options)
      : options_((cuda::select_device(options.device), options)),
        products_(stream_, options.tf32) {}

  int workers() const { return 1; }
  cudaStream_t stream() {
    flush();
    return stream_.handle();
  }
  void synchronize() {
    flush();
    stream_.synchronize();
  }
  /// Scratch of kernels and products, for which a plan has `size` bytes.
  void use_workspace(void* memory, bytes size) { stream_.lend(memory, size); }

  /// Device memory to a host, once everything before has been computed.
  void read(void* host, const void* device, bytes count) {
    copy(host, device, count, cudaMemcpyDeviceToHost);
    stream_.synchronize();
  }
  /// Host memory to the device. The host's bytes are free again when it returns.
  void write(void* device, const void* host, bytes count) {
    copy(device, host, count, cudaMemcpyHostToDevice);
    stream_.synchronize();
  }

  template <RunsOnCuda Call> void run(const Call& call) {
    if (completes_held(call)) return;
    flush();
    if constexpr (CanBeCompleted<Call>)
      held_ = call;
    else
      submit(call);
  }

  /// Clip and loss scale without the host: see cuda::UpdateState.
  void decide_update(cuda::UpdateState* state, const cuda::LossScaleRule& rule, float mean,
                     float clip) {
    flush();
    cuda::decide_update(stream_, state, rule, mean, clip);
  }
  template <class G> void update(const AdamWUpdateOf<G>& call, const cuda::UpdateState* state) {
    flush();
    cuda::update(call, stream_, state);
  }

 private:
  // calls become kernels and products ------------------------------------------------------------

  template <HasCudaKernel Call> void submit(const Call& call) { cuda::compute(call, stream_); }

  template <class T> void submit(const LinearForward<T>& call) {
    products_.run(cuda::shape_of(call),
                  {cuda::operand_of(call.weight), call.x, call.z, operand_bias(call)});
  }
  template <class T, class DX> void submit(const LinearBackwardInput<T, DX>& call) {
    products_.run(cuda::shape_of(call), {cuda::operand_of(call.weight), call.dz, call.dx});
  }
  template <class T, class G> void submit(const LinearBackwardWeight<T, G>& call) {
    cuda::ProductShape shape = cuda::shape_of(call);
    // named: nvcc 13 loses a semicolon after a braced argument here
    const cuda::ProductOperands on{call.x, call.dz, call.d_weight, call.d_bias};
    if (options_.epilogues && std::same_as<G, float> && !call.accumulate) {
      shape.epilogue = cuda::Epilogue::sums_of_b;
      if (products_.try_to_run(shape, on)) return;
      shape.epilogue = cuda::Epilogue::none;
    }
    products_.run(shape, on);
    cuda::add_column_sums(call, stream_);
  }

  /// A product of 16-bit operands takes its bias in their type, as cuBLASLt wants it.
  template <class T> const void* operand_bias(const LinearForward<T>& call) {
    if constexpr (std::same_as<T, float>) {
      return call.bias;
    } else if (call.bias == nullptr) {
      return nullptr;
    } else {
      T* rounded = stream_.scratch<T>(call.weight.out);
      cuda::convert(stream_, rounded, call.bias, call.weight.out);
      return rounded;
    }
  }

  // two calls become one product -----------------------------------------------------------------

  template <class Call> bool completes_held(const Call&) { return false; }

  template <class T> bool completes_held(const GeluForward<T>& call) {
    const auto* held = std::get_if<LinearForward<T>>(&held_);
    if (!takes_gelu(call) || held == nullptr || held->z != call.x || held->bias == nullptr)
      return false;
    cuda::ProductShape shape = cuda::shape_of(*held);
    shape.epilogue = cuda::Epilogue::bias_gelu;
    return ends_held(
        shape, {cuda::operand_of(held->weight), held->x, call.y, operand_bias(*held), held->z});
  }
  /// Where the slope overwrites the gradient, nobody else can want that.
  template <class T> bool completes_held(const GeluBackward<T>& call) {
    const auto* held = std::get_if<LinearBackwardInput<T, T>>(&held_);
    if (!takes_gelu(call) || held == nullptr || held->dx != call.dy || call.dx != call.dy ||
        held->accumulate_input)
      return false;
    cuda::ProductShape shape = cuda::shape_of(*held);
    shape.epilogue = cuda::Epilogue::gelu_slope;
    return ends_held(shape, {cuda::operand_of(held->weight), held->dz, call.dx, nullptr, call.x});
  }
  /// The library's GELU is the tanh form, and its rows of aux are multiples of 8.
  template <class Call> bool takes_gelu(const Call& call) const {
    return options_.epilogues && call.activation == Activation::gelu_tanh && call.cols % 8 == 0;
  }
  bool ends_held(const cuda::ProductShape& shape, const cuda::ProductOperands& on) {
    if (!products_.try_to_run(shape, on)) return false;
    held_ = std::monostate{};
    return true;
  }

  void flush() {
    const HeldProduct held = std::exchange(held_, std::monostate{});
    std::visit(
        [&](const auto& call) {
          if constexpr (!std::same_as<decltype(call), const std::monostate&>) submit(call);
        },
        held);
  }

  void copy(void* to, const void* from, bytes count, cudaMemcpyKind kind) {
    flush();
    cuda::check(cudaMemcpyAsync(to, from, std::size_t(count), kind, stream_.handle()),
                "cudaMemcpyAsync");
  }

  Options options_;
  cuda::DeviceStream stream_;
  cuda::Products products_;
  HeldProduct held_;
};

static_assert(Backend<Cuda>);

}  // namespace ctrain
