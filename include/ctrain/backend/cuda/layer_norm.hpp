/// \file  Device kernels of layer normalisation, forward and backward.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/cuda/column_sums.hpp>
#include <ctrain/backend/math/layer_norm.hpp>

namespace ctrain::cuda {

/// One block per row. The row is read three times, from device memory only once: it stays in L1.
template <class T, int Group> struct NormaliseRows {
  static constexpr int threads = 128;
  LayerNormForward<T> call;

  std::int64_t blocks() const { return call.rows; }
  int shared_bytes() const { return threads / warp_size * int(sizeof(float)); }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    auto* shared = reinterpret_cast<float*>(block.shared());
    const std::int64_t row = block.index();
    const float* x = call.x + row * call.hidden;
    const int start = block.thread() * Group, step = threads * Group;

    float sum = 0;
    for (int c = start; c < call.hidden; c += step) {
      const Values<Group> value = load<Group>(x + c);
      for (int i = 0; i < Group; ++i) sum += value[i];
    }
    const float mean = block_sum<threads>(block, sum, shared) / float(call.hidden);

    float squares = 0;
    for (int c = start; c < call.hidden; c += step) {
      const Values<Group> value = load<Group>(x + c);
      for (int i = 0; i < Group; ++i) squares += (value[i] - mean) * (value[i] - mean);
    }
    const float rstd =
        inverse_deviation(block_sum<threads>(block, squares, shared), call.hidden, call.epsilon);
    for (int c = start; c < call.hidden; c += step) {
      const Values<Group> gain = load<Group>(call.gain + c), bias = load<Group>(call.bias + c);
      Values<Group> value = load<Group>(x + c);
      for (int i = 0; i < Group; ++i)
        value[i] = gain[i] * normalised(value[i], mean, rstd) + bias[i];
      store(call.y + row * call.hidden + c, value);
    }
    if (block.thread() == 0) call.mean[row] = mean, call.rstd[row] = rstd;
  }
};

/// One block per row. A thread writes only where it has read, so dx may be dy.
template <class T, int Group> struct NormaliseRowsSlope {
  static constexpr int threads = 128;
  LayerNormBackward<T> call;

  std::int64_t blocks() const { return call.rows; }
  int shared_bytes() const { return threads / warp_size * int(sizeof(float)); }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    auto* shared = reinterpret_cast<float*>(block.shared());
    const std::int64_t row = block.index(), at = row * call.hidden;
    const float mean = call.mean[row], rstd = call.rstd[row];
    const int start = block.thread() * Group, step = threads * Group;

    float sum_g = 0, sum_g_xhat = 0;
    for (int c = start; c < call.hidden; c += step) {
      const Row values = read(at, c, mean, rstd);
      for (int i = 0; i < Group; ++i)
        sum_g += values.g[i], sum_g_xhat += values.g[i] * values.xhat[i];
    }
    const float mean_g = block_sum<threads>(block, sum_g, shared) / float(call.hidden);
    const float mean_g_xhat = block_sum<threads>(block, sum_g_xhat, shared) / float(call.hidden);

    for (int c = start; c < call.hidden; c += step) {
      const Row values = read(at, c, mean, rstd);
      Values<Group> dx{};
      if (call.accumulate_input) dx = load<Group>(call.dx + at + c);
      for (int i = 0; i < Group; ++i)
        dx[i] += layer_norm_slope(values.g[i], values.xhat[i], mean_g, mean_g_xhat, rstd);
      store(call.dx + at + c, dx);
    }
  }

 private:
  struct Row {
    Values<Group> g, xhat;
  };
  CTRAIN_HOST_DEVICE Row read(std::int64_t at, int c, float mean, float rstd) const {
    const Values<Group> gain = load<Group>(call.gain + c);
    Row row{load<Group>(call.dy + at + c), load<Group>(call.x + at + c)};
    for (int i = 0; i < Group; ++i) {
      row.g[i] *= gain[i];
      row.xhat[i] = normalised(row.xhat[i], mean, rstd);
    }
    return row;
  }
};

/// partial[chunk] = [sum of dy * xhat | sum of dy], each (hidden), over the chunk's rows.
template <class T, int Group> struct NormaliseParameterChunks {
  static constexpr int threads = 128;
  float* partial;  // (chunks, 2 * hidden)
  LayerNormBackward<T> call;
  RowChunks chunks;

  std::int64_t blocks() const {
    return std::int64_t{chunks.count} * ceil_divide(call.hidden, threads * Group);
  }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const int chunk = int(block.index() % chunks.count);
    const int column = (int(block.index() / chunks.count) * threads + block.thread()) * Group;
    if (column >= call.hidden) return;
    const int first = chunk * chunks.length;
    const int end = first + chunks.length < chunks.rows ? first + chunks.length : chunks.rows;
    Values<Group> gain{}, bias{};
    for (int row = first; row < end; ++row) {
      const std::int64_t at = std::int64_t{row} * call.hidden + column;
      const float mean = call.mean[row], rstd = call.rstd[row];
      const Values<Group> dy = load<Group>(call.dy + at), x = load<Group>(call.x + at);
      for (int i = 0; i < Group; ++i)
        gain[i] += dy[i] * normalised(x[i], mean, rstd), bias[i] += dy[i];
    }
    float* to = partial + std::int64_t{chunk} * 2 * call.hidden + column;
    store(to, gain);
    store(to + call.hidden, bias);
  }
};

template <class T, Stream S> void compute(const LayerNormForward<T>& call, S& stream) {
  constexpr int group = group_of<T>;
  if (rows_allow_groups(group, call.hidden, call.y, call.x, call.gain, call.bias))
    stream.launch(NormaliseRows<T, group>{call});
  else
    stream.launch(NormaliseRows<T, 1>{call});
}

/// The parameters first: dx may overwrite dy.
template <class T, Stream S> void compute(const LayerNormBackward<T>& call, S& stream) {
  const RowChunks chunks = RowChunks::of(call.rows);
  const std::int64_t step = std::int64_t{2} * call.hidden;
  float* partial = stream.template scratch<float>(chunks.count * step);
  const auto run = [&]<int Group>(Index<Group>) {
    stream.launch(NormaliseParameterChunks<T, Group>{partial, call, chunks});
    stream.launch(
        FoldChunks{call.d_gain, partial, step, chunks.count, call.hidden, call.accumulate});
    stream.launch(FoldChunks{call.d_bias, partial + call.hidden, step, chunks.count, call.hidden,
                             call.accumulate});
    stream.launch(NormaliseRowsSlope<T, Group>{call});
  };
  if (rows_allow_groups(group_of<T>, call.hidden, call.dx, call.dy, call.x, call.gain))
    run(Index<group_of<T>>{});
  else
    run(Index<1>{});
}

}  // namespace ctrain::cuda
