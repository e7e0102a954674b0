/// \file  Device kernels that treat each element alone: casts, GELU, tanh.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/math/activation.hpp>

#include <algorithm>

namespace ctrain::cuda {

/// Applies op.template at<N>(i) to elements [i, i + N), all of [0, count).
template <class Op, int Group> struct EachElement {
  static constexpr int threads = 256;
  Op op;
  std::int64_t count;

  std::int64_t blocks() const {
    return ceil_divide(ceil_divide(count, std::int64_t{Group}), std::int64_t{threads});
  }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const std::int64_t first = (block.index() * threads + block.thread()) * Group;
    if (first + Group <= count)
      op.template at<Group>(first);
    else
      for (std::int64_t i = first; i < count; ++i) op.template at<1>(i);
  }
};

/// `group` elements at a time where the addresses allow it, else one.
template <int Group, Stream S, class Op, class... T>
void each_element(S& stream, const Op& op, std::int64_t count, const T*... addresses) {
  if (rows_allow_groups(Group, 0, addresses...))
    stream.launch(EachElement<Op, Group>{op, count});
  else
    stream.launch(EachElement<Op, 1>{op, count});
}

// what is done to an element ----------------------------------------------------------------------

template <class To, class From> struct Convert {
  To* to;
  const From* from;
  bool accumulate;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    Values<N> value = load<N>(from + i);
    if (accumulate) {
      const Values<N> before = load<N>(to + i);
      for (int j = 0; j < N; ++j) value[j] += before[j];
    }
    store(to + i, value);
  }
};

template <class T, Activation Form> struct Gelu {
  T* y;
  const T* x;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    Values<N> value = load<N>(x + i);
    for (int j = 0; j < N; ++j)
      value[j] = Form == Activation::gelu_erf ? gelu_erf(value[j]) : gelu_tanh(value[j]);
    store(y + i, value);
  }
};

template <class T, Activation Form> struct GeluSlope {
  T* dx;
  const T* dy;
  const T* x;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    const Values<N> in = load<N>(x + i);
    Values<N> value = load<N>(dy + i);
    for (int j = 0; j < N; ++j)
      value[j] *= Form == Activation::gelu_erf ? gelu_erf_slope(in[j]) : gelu_tanh_slope(in[j]);
    store(dx + i, value);
  }
};

struct Tanh {
  float* y;
  const float* x;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    Values<N> value = load<N>(x + i);
    for (int j = 0; j < N; ++j) value[j] = hyperbolic_tangent(value[j]);
    store(y + i, value);
  }
};

struct TanhSlope {
  float* dx;
  const float* dy;
  const float* y;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    const Values<N> out = load<N>(y + i);
    Values<N> value = load<N>(dy + i);
    for (int j = 0; j < N; ++j) value[j] *= tanh_slope(out[j]);
    store(dx + i, value);
  }
};

/// Its elements are bytes.
struct Zero {
  char* to;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    if constexpr (N == 1) {
      to[i] = 0;
    } else {
      alignas(16) const std::uint32_t zeros[4] = {};
      copy_16_bytes(to + i, zeros);
    }
  }
};

/// Its elements are bytes.
struct Duplicate {
  char* to;
  const char* from;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    if constexpr (N == 1)
      to[i] = from[i];
    else
      copy_16_bytes(to + i, from + i);
  }
};

// calls -------------------------------------------------------------------------------------------

template <class To, class From, Stream S>
void convert(S& stream, To* to, const From* from, std::int64_t count, bool accumulate = false) {
  constexpr int group = std::max(group_of<To>, group_of<From>);
  each_element<group>(stream, Convert<To, From>{to, from, accumulate}, count, to, from);
}

template <Stream S> void compute(const Clear& call, S& stream) {
  char* to = static_cast<char*>(call.at);
  each_element<16>(stream, Zero{to}, call.size, to);
}

template <Stream S> void compute(const Copy& call, S& stream) {
  char* to = static_cast<char*>(call.to);
  const char* from = static_cast<const char*>(call.from);
  each_element<16>(stream, Duplicate{to, from}, call.size, to, from);
}

/// Sets `count` floats to 0.
template <Stream S> void fill_zero(S& stream, float* to, std::int64_t count) {
  compute(Clear{to, count * std::int64_t(sizeof(float))}, stream);
}

template <class T, Stream S> void compute(const CastForward<T>& call, S& stream) {
  convert(stream, call.y, call.x, std::int64_t{call.rows} * call.cols);
}

template <class T, Stream S> void compute(const CastBackward<T>& call, S& stream) {
  convert(stream, call.dx, call.dy, std::int64_t{call.rows} * call.cols, call.accumulate_input);
}

/// Device weights are kept row-major; one copy serves both directions.
template <class T, Stream S> void compute(const PrepareWeight<T>& call, S& stream) {
  const std::int64_t count = std::int64_t{call.out} * call.in;
  if (call.forward != nullptr) convert(stream, call.forward, call.master, count);
  if (call.backward != nullptr) convert(stream, call.backward, call.master, count);
}

template <class T, Stream S> void compute(const GeluForward<T>& call, S& stream) {
  const auto run = [&](const auto& op) {
    each_element<group_of<T>>(stream, op, std::int64_t{call.rows} * call.cols, call.y, call.x);
  };
  if (call.activation == Activation::gelu_erf)
    run(Gelu<T, Activation::gelu_erf>{call.y, call.x});
  else
    run(Gelu<T, Activation::gelu_tanh>{call.y, call.x});
}

template <class T, Stream S> void compute(const GeluBackward<T>& call, S& stream) {
  const auto run = [&](const auto& op) {
    each_element<group_of<T>>(stream, op, std::int64_t{call.rows} * call.cols, call.dx, call.dy,
                              call.x);
  };
  if (call.activation == Activation::gelu_erf)
    run(GeluSlope<T, Activation::gelu_erf>{call.dx, call.dy, call.x});
  else
    run(GeluSlope<T, Activation::gelu_tanh>{call.dx, call.dy, call.x});
}

template <Stream S> void compute(const TanhForward& call, S& stream) {
  each_element<4>(stream, Tanh{call.y, call.x}, std::int64_t{call.rows} * call.cols, call.y,
                  call.x);
}

template <Stream S> void compute(const TanhBackward& call, S& stream) {
  each_element<4>(stream, TanhSlope{call.dx, call.dy, call.y}, std::int64_t{call.rows} * call.cols,
                  call.dx, call.dy, call.y);
}

}  // namespace ctrain::cuda
