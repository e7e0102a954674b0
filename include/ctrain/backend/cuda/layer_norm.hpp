/// \file  Device kernels of layer normalisation, forward and backward.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/cuda/column_sums.hpp>
#include <ctrain/backend/math/layer_norm.hpp>

namespace ctrain::cuda {

/// Elements that a thread takes at once, whatever the types: joined or alone, a row's sums have the
/// same order.
inline constexpr int norm_group = 8;

/// The norm of one row, by a block; thread t has the groups t, t + threads, ...
template <class T, int Group> struct RowNorm {
  static constexpr int threads = 128;
  static constexpr int shared_bytes = threads / warp_size * int(sizeof(float));
  const LayerNormForward<T>& call;

  /// `x`: the row, wherever it stands; a thread reads its own groups only.
  template <Block B>
  CTRAIN_HOST_DEVICE void normalise(B& block, std::int64_t row, const float* x,
                                    float* shared) const {
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

/// The gradient of one row's x, by a block.
template <class T, int Group> struct RowNormSlope {
  static constexpr int threads = 128;
  static constexpr int shared_bytes = threads / warp_size * int(sizeof(float));
  const LayerNormBackward<T>& call;
  std::int64_t at;  // of the row
  float mean, rstd;
  float mean_g = 0, mean_g_xhat = 0;

  CTRAIN_HOST_DEVICE RowNormSlope(const LayerNormBackward<T>& of, std::int64_t row)
      : call(of), at(row * of.hidden), mean(of.mean[row]), rstd(of.rstd[row]) {}

  template <Block B> CTRAIN_HOST_DEVICE void sum(B& block, float* shared) {
    float sum_g = 0, sum_g_xhat = 0;
    for (int c = block.thread() * Group; c < call.hidden; c += threads * Group) {
      const Read values = read(c);
      for (int i = 0; i < Group; ++i)
        sum_g += values.g[i], sum_g_xhat += values.g[i] * values.xhat[i];
    }
    mean_g = block_sum<threads>(block, sum_g, shared) / float(call.hidden);
    mean_g_xhat = block_sum<threads>(block, sum_g_xhat, shared) / float(call.hidden);
  }

  /// After sum(): writes dx of the group at c, and returns it. A thread writes only where it has
  /// read, so dx may be dy.
  CTRAIN_HOST_DEVICE Values<Group> write(int c) const {
    const Read values = read(c);
    Values<Group> dx{};
    if (call.accumulate_input) dx = load<Group>(call.dx + at + c);
    for (int i = 0; i < Group; ++i)
      dx[i] += layer_norm_slope(values.g[i], values.xhat[i], mean_g, mean_g_xhat, rstd);
    store(call.dx + at + c, dx);
    return dx;
  }

 private:
  struct Read {
    Values<Group> g, xhat;
  };
  CTRAIN_HOST_DEVICE Read read(int c) const {
    const Values<Group> gain = load<Group>(call.gain + c);
    Read row{load<Group>(call.dy + at + c), load<Group>(call.x + at + c)};
    for (int i = 0; i < Group; ++i) {
      row.g[i] *= gain[i];
      row.xhat[i] = normalised(row.xhat[i], mean, rstd);
    }
    return row;
  }
};

/// One block per row. The row is read three times, from device memory only once: it stays in L1.
template <class T, int Group> struct NormaliseRows {
  using Row = RowNorm<T, Group>;
  static constexpr int threads = Row::threads;
  LayerNormForward<T> call;

  std::int64_t blocks() const { return call.rows; }
  int shared_bytes() const { return Row::shared_bytes; }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    Row{call}.normalise(block, block.index(), call.x + block.index() * call.hidden,
                        reinterpret_cast<float*>(block.shared()));
  }
};

/// One block per row.
template <class T, int Group> struct NormaliseRowsSlope {
  using Row = RowNormSlope<T, Group>;
  static constexpr int threads = Row::threads;
  LayerNormBackward<T> call;

  std::int64_t blocks() const { return call.rows; }
  int shared_bytes() const { return Row::shared_bytes; }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    Row row(call, block.index());
    row.sum(block, reinterpret_cast<float*>(block.shared()));
    for (int c = block.thread() * Group; c < call.hidden; c += threads * Group) row.write(c);
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

// calls -------------------------------------------------------------------------------------------

/// run(Index<the group>) for rows that can be walked in such groups.
template <class Run, class... T> void with_norm_group(int hidden, const Run& run, const T*... at) {
  if (rows_allow_groups(norm_group, hidden, at...))
    run(Index<norm_group>{});
  else
    run(Index<1>{});
}

template <class T, Stream S> void compute(const LayerNormForward<T>& call, S& stream) {
  with_norm_group(
      call.hidden, [&]<int Group>(Index<Group>) { stream.launch(NormaliseRows<T, Group>{call}); },
      call.y, call.x, call.gain, call.bias);
}

/// Gradients of the parameters: before that of x, which may overwrite dy.
template <int Group, class T, Stream S>
void sum_norm_parameters(const LayerNormBackward<T>& call, S& stream) {
  const RowChunks chunks = RowChunks::of(call.rows);
  const std::int64_t step = std::int64_t{2} * call.hidden;
  float* partial = stream.template scratch<float>(chunks.count * step);
  stream.launch(NormaliseParameterChunks<T, Group>{partial, call, chunks});
  stream.launch(FoldChunks{call.d_gain, partial, step, chunks.count, call.hidden, call.accumulate});
  stream.launch(FoldChunks{call.d_bias, partial + call.hidden, step, chunks.count, call.hidden,
                           call.accumulate});
}

template <class T, Stream S> void compute(const LayerNormBackward<T>& call, S& stream) {
  with_norm_group(
      call.hidden,
      [&]<int Group>(Index<Group>) {
        sum_norm_parameters<Group>(call, stream);
        stream.launch(NormaliseRowsSlope<T, Group>{call});
      },
      call.dx, call.dy, call.x, call.gain);
}

}  // namespace ctrain::cuda
