/// \file  Backend calls as a device gets them: kernels on a stream, products, and two calls as one product.   floor 5: backend
#pragma once

#include <ctrain/backend/cuda/attention.hpp>
#include <ctrain/backend/cuda/column_sums.hpp>
#include <ctrain/backend/cuda/dropout.hpp>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/cuda/embedding.hpp>
#include <ctrain/backend/cuda/head.hpp>
#include <ctrain/backend/cuda/layer_norm.hpp>
#include <ctrain/backend/cuda/product_shapes.hpp>
#include <ctrain/backend/cuda/residual_norm.hpp>
#include <ctrain/backend/cuda/row_programs.hpp>
#include <ctrain/backend/cuda/update.hpp>

#include <concepts>
#include <utility>
#include <variant>

namespace ctrain::cuda {

/// A call that is kernels alone.
template <class Call, class S>
concept HasKernel = requires(const Call& call, S& stream) {
  compute(call, stream);
};

/// A call that is a product.
template <class Call> inline constexpr bool is_product = false;
template <class T> inline constexpr bool is_product<LinearForward<T>> = true;
template <class T, class DX> inline constexpr bool is_product<LinearBackwardInput<T, DX>> = true;
template <class T, class G> inline constexpr bool is_product<LinearBackwardWeight<T, G>> = true;
template <class Call, class S>
concept RunsOnDevice = HasKernel<Call, S> || is_product<Call>;

/// Products that may become one with the call after them.
using HeldProduct = std::variant<std::monostate, LinearForward<float>, LinearForward<bf16>,
                                 LinearForward<fp16>, LinearBackwardInput<float, float>,
                                 LinearBackwardInput<bf16, bf16>, LinearBackwardInput<fp16, fp16>>;
template <class Call, class Held> inline constexpr bool is_one_of = false;
template <class Call, class... Held>
inline constexpr bool is_one_of<Call, std::variant<Held...>> = (std::same_as<Call, Held> || ...);
template <class Call>
concept CanBeCompleted = is_one_of<Call, HeldProduct>;

/// What multiplies. try_to_run does nothing, and says false, for a shape that it has no kernel for.
template <class L>
concept ProductLibrary = requires(L& library, const ProductShape& shape,
                                  const ProductOperands& on) {
  { library.try_to_run(shape, on) } -> std::same_as<bool>;
  library.run(shape, on);
};

/// Turns calls into kernels on `S` and products of `L`: the device's own, or what records them. A
/// product is held back until the next call, with which it may be one: GELU after a layer, GELU's
/// slope after a layer's gradient.
template <Stream S, ProductLibrary L> class KernelCalls {
 public:
  /// `epilogues`: products take biases' gradients, GELU and its slope with them, where the library
  /// can.
  KernelCalls(S& stream, L& products, bool epilogues)
      : stream_(stream), products_(products), epilogues_(epilogues) {}

  template <RunsOnDevice<S> Call> void run(const Call& call) {
    if (completes_held(call)) return;
    flush();
    if constexpr (CanBeCompleted<Call>)
      held_ = call;
    else
      submit(call);
  }

  /// Gives the device what is held back.
  void flush() {
    const HeldProduct held = std::exchange(held_, std::monostate{});
    std::visit(
        [&](const auto& call) {
          if constexpr (!std::same_as<decltype(call), const std::monostate&>) submit(call);
        },
        held);
  }

 private:
  // calls become kernels and products ------------------------------------------------------------

  template <HasKernel<S> Call> void submit(const Call& call) { compute(call, stream_); }

  // Operands have names: nvcc 13 loses a semicolon after a braced argument here.
  template <class T> void submit(const LinearForward<T>& call) {
    const ProductOperands on{operand_of(call.weight), call.x, call.z, operand_bias(call)};
    products_.run(shape_of(call), on);
  }
  template <class T, class DX> void submit(const LinearBackwardInput<T, DX>& call) {
    const ProductOperands on{operand_of(call.weight), call.dz, call.dx};
    products_.run(shape_of(call), on);
  }
  template <class T, class G> void submit(const LinearBackwardWeight<T, G>& call) {
    ProductShape shape = shape_of(call);
    const ProductOperands on{call.x, call.dz, call.d_weight, call.d_bias};
    if (epilogues_ && std::same_as<G, float> && !call.accumulate) {
      shape.epilogue = Epilogue::sums_of_b;
      if (products_.try_to_run(shape, on)) return;
      shape.epilogue = Epilogue::none;
    }
    products_.run(shape, on);
    add_column_sums(call, stream_);
  }

  /// A product of 16-bit operands takes its bias in their type, as cuBLASLt wants it.
  template <class T> const void* operand_bias(const LinearForward<T>& call) {
    if constexpr (std::same_as<T, float>) {
      return call.bias;
    } else if (call.bias == nullptr) {
      return nullptr;
    } else {
      T* rounded = stream_.template scratch<T>(call.weight.out);
      convert(stream_, rounded, call.bias, call.weight.out);
      return rounded;
    }
  }

  // two calls become one product -----------------------------------------------------------------

  template <class Call> bool completes_held(const Call&) { return false; }

  template <class T> bool completes_held(const GeluForward<T>& call) {
    const auto* held = std::get_if<LinearForward<T>>(&held_);
    if (!takes_gelu(call) || held == nullptr || held->z != call.x || held->bias == nullptr)
      return false;
    ProductShape shape = shape_of(*held);
    shape.epilogue = Epilogue::bias_gelu;
    const ProductOperands on{operand_of(held->weight), held->x, call.y, operand_bias(*held),
                             held->z};
    return ends_held(shape, on);
  }
  /// Where the slope overwrites the gradient, nobody else can want that.
  template <class T> bool completes_held(const GeluBackward<T>& call) {
    const auto* held = std::get_if<LinearBackwardInput<T, T>>(&held_);
    if (!takes_gelu(call) || held == nullptr || held->dx != call.dy || call.dx != call.dy ||
        held->accumulate_input)
      return false;
    ProductShape shape = shape_of(*held);
    shape.epilogue = Epilogue::gelu_slope;
    const ProductOperands on{operand_of(held->weight), held->dz, call.dx, nullptr, call.x};
    return ends_held(shape, on);
  }
  /// The library's GELU is the tanh form, and its rows of aux are multiples of 8.
  template <class Call> bool takes_gelu(const Call& call) const {
    return epilogues_ && call.activation == Activation::gelu_tanh && call.cols % 8 == 0;
  }
  bool ends_held(const ProductShape& shape, const ProductOperands& on) {
    if (!products_.try_to_run(shape, on)) return false;
    held_ = std::monostate{};
    return true;
  }

  S& stream_;
  L& products_;
  bool epilogues_;
  HeldProduct held_;
};

}  // namespace ctrain::cuda
