/// \file  Device kernels of row programs, their sums, and sign compression.   floor 5: backend
#pragma once

#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/cuda/update.hpp>
#include <ctrain/backend/math/sign_compression.hpp>
#include <ctrain/backend/row_calls.hpp>

namespace ctrain::cuda {

/// One pass over all arrays of a program.
template <class Program, class G> struct RowsOp {
  RunRows<Program, G> call;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    const auto program = call.program.ready();
    Values<N> all[Program::states], gradient = {};
    for (int s = 0; s < Program::states; ++s) all[s] = load<N>(call.state[s] + i);
    if constexpr (Program::takes_gradient) gradient = load<N>(call.gradient + i);
    for (int j = 0; j < N; ++j) {
      float x[Program::states];
      for (int s = 0; s < Program::states; ++s) x[s] = all[s][j];
      program.step(x, gradient[j]);
      for (int s = 0; s < Program::written; ++s) all[s][j] = x[s];
    }
    for (int s = 0; s < Program::written; ++s) store(call.state[s] + i, all[s]);
  }
};

/// One block per chunk of what a function of some arrays is: their exact squares, and the largest.
template <class Function> struct ReduceRowsChunks {
  static constexpr int threads = 128;
  ExactSum* sums;   // (chunks), or null
  float* largests;  // (chunks), or null
  Function function;
  const float* state[Function::states];
  std::int64_t count;

  std::int64_t blocks() const { return ceil_divide(count, squares_chunk); }
  int shared_bytes() const { return threads * int(sizeof(ExactSum) + sizeof(float)); }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    auto* squares = reinterpret_cast<ExactSum*>(block.shared());
    auto* most = reinterpret_cast<float*>(squares + threads);
    const std::int64_t first = block.index() * squares_chunk;
    const std::int64_t end = first + squares_chunk < count ? first + squares_chunk : count;
    ExactSum sum;
    float largest = 0;
    for (std::int64_t i = first + block.thread() * 16; i < end; i += threads * 16) {
      float y[16];
      for (int j = 0; j < 16; ++j) {
        y[j] = i + j < end ? value(i + j) : 0.0f;
        largest = y[j] > largest ? y[j] : largest;
      }
      for (int j = 0; j < 8; ++j)
        sum.add(double(y[j]) * double(y[j]) + double(y[j + 8]) * double(y[j + 8]));
    }
    sum.carry();
    squares[block.thread()] = sum, most[block.thread()] = largest;
    block.sync();
    if (block.thread() != 0) return;
    for (int i = 1; i < threads; ++i) {
      sum.add(squares[i]);
      largest = most[i] > largest ? most[i] : largest;
    }
    if (sums != nullptr) sums[block.index()] = sum;
    if (largests != nullptr) largests[block.index()] = largest;
  }

 private:
  CTRAIN_HOST_DEVICE float value(std::int64_t i) const {
    float x[Function::states];
    for (int s = 0; s < Function::states; ++s) x[s] = state[s][i];
    return function.of(x);
  }
};

/// *largest = the largest of it and the chunks: one thread.
struct FoldLargest {
  static constexpr int threads = 32;
  float* largest;
  const float* partial;
  std::int64_t chunks;

  std::int64_t blocks() const { return 1; }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    if (block.thread() != 0) return;
    for (std::int64_t i = 0; i < chunks; ++i)
      *largest = partial[i] > *largest ? partial[i] : *largest;
  }
};

/// A function that one thread runs.
template <class Function> struct Once {
  static constexpr int threads = 32;
  Function function;

  std::int64_t blocks() const { return 1; }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    if (block.thread() == 0) function();
  }
};

/// A byte of signs for each thread.
struct PackSignBytes {
  static constexpr int threads = 256;
  PackSigns call;

  std::int64_t blocks() const { return ceil_divide(call.count / 8, std::int64_t{threads}); }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const std::int64_t byte = block.index() * threads + block.thread();
    const float scale = sign_scale(*call.sum, call.whole);
    if (byte == 0) *call.scale = scale;
    if (byte * 8 < call.count) call.bits[byte] = pack_signs(call.error + byte * 8, scale);
  }
};

struct AddMeanOfSignsOp {
  AddMeanOfSigns call;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    Values<N> value = load<N>(call.to + i);
    for (int j = 0; j < N; ++j)
      value[j] += mean_of_signs(call.bits + (i + j) / 8, call.scales, call.stride, call.ranks,
                                int((i + j) % 8));
    store(call.to + i, value);
  }
};

struct UnpackSignsOp {
  UnpackSigns call;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    Values<N> value;
    for (int j = 0; j < N; ++j)
      value[j] = *call.scale * sign_of(call.bits[(i + j) / 8], int((i + j) % 8));
    store(call.to + i, value);
  }
};

// calls -------------------------------------------------------------------------------------------

template <class Program, class G, Stream S>
void compute(const RunRows<Program, G>& call, S& stream) {
  const auto run = [&](auto... states) {
    if constexpr (Program::takes_gradient)
      each_element<group_of<G>>(stream, RowsOp<Program, G>{call}, call.count, call.gradient,
                                states...);
    else
      each_element<group_of<float>>(stream, RowsOp<Program, G>{call}, call.count, states...);
  };
  [&]<int... I>(std::integer_sequence<int, I...>) {
    run(call.state[I]...);
  }
  (std::make_integer_sequence<int, Program::states>{});
}

template <class Function, Stream S>
void reduce_rows(const Function& function, const float* const (&state)[Function::states],
                 std::int64_t count, ExactSum* sums, float* largests, S& stream) {
  ReduceRowsChunks<Function> kernel{sums, largests, function, {}, count};
  for (int s = 0; s < Function::states; ++s) kernel.state[s] = state[s];
  stream.launch(kernel);
}

template <class Function, Stream S>
void compute(const SumSquaresOfRows<Function>& call, S& stream) {
  const std::int64_t chunks = ceil_divide(call.count, squares_chunk);
  ExactSum* partial = stream.template scratch<ExactSum>(chunks);
  reduce_rows(call.function, call.state, call.count, partial, nullptr, stream);
  stream.launch(FoldSquares{call.sum, partial, chunks});
}

template <class Function, Stream S> void compute(const LargestOfRows<Function>& call, S& stream) {
  const std::int64_t chunks = ceil_divide(call.count, squares_chunk);
  float* partial = stream.template scratch<float>(chunks);
  reduce_rows(call.function, call.state, call.count, nullptr, partial, stream);
  stream.launch(FoldLargest{call.largest, partial, chunks});
}

template <class Function, Stream S> void compute(const RunOnce<Function>& call, S& stream) {
  stream.launch(Once<Function>{call.function});
}

template <Stream S> void compute(const PackSigns& call, S& stream) {
  stream.launch(PackSignBytes{call});
}

template <Stream S> void compute(const AddMeanOfSigns& call, S& stream) {
  each_element<4>(stream, AddMeanOfSignsOp{call}, call.count, call.to);
}

template <Stream S> void compute(const UnpackSigns& call, S& stream) {
  each_element<4>(stream, UnpackSignsOp{call}, call.count, call.to);
}

}  // namespace ctrain::cuda
