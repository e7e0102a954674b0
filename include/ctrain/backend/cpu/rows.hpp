/// \file  Kernels that work row by row: embedding, norms, dropout, activations, casts, head.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/dropout.hpp>
#include <ctrain/backend/cpu/threads.hpp>
#include <ctrain/backend/math/activation.hpp>
#include <ctrain/backend/math/layer_norm.hpp>
#include <ctrain/backend/math/softmax.hpp>

#include <cstring>

namespace ctrain::cpu {

using simd::All;
using simd::Lanes;
using simd::Some;

/// f(row) for every row.
template <class F> void each_row(const Threads& threads, int rows, int columns, F&& f) {
  threads.each(rows, std::int64_t(rows) * columns, f);
}

/// f(first column, columns) for blocks of 64 columns: who sums over rows splits the columns, so
/// that the order of a sum is the order of the rows whatever the threads.
template <class F> void each_column_block(const Threads& threads, int rows, int columns, F&& f) {
  constexpr int block = 64;
  threads.each((columns + block - 1) / block, std::int64_t(rows) * columns, [&](std::int64_t b) {
    const int first = int(b) * block;
    f(first, std::min(block, columns - first));
  });
}

/// to = from, or to += from.
template <class T, class Count>
CTRAIN_INLINE void put(T* to, Lanes value, bool accumulate, Count some) {
  simd::store(to, accumulate ? simd::load(to, some) + value : value, some);
}

/// f applied to every element of y = f(x).
template <class To, class From, class F>
void map_rows(const Threads& threads, To* y, const From* x, int rows, int columns, F&& f) {
  each_row(threads, rows, columns, [&](std::int64_t r) {
    const std::int64_t at = r * columns;
    simd::each_lanes(columns, [&](int c, auto some) {
      simd::store(y + at + c, f(simd::load(x + at + c, some), at + c, some), some);
    });
  });
}

/// f(first byte, bytes) for pieces of `size` bytes.
template <class F> void each_mebibyte(const Threads& threads, std::int64_t size, F&& f) {
  constexpr std::int64_t piece = 1 << 20;
  threads.each((size + piece - 1) / piece, size / 4, [&](std::int64_t i) {
    f(i * piece, std::size_t(std::min(piece, size - i * piece)));
  });
}

inline void compute(const Clear& call, const Threads& threads) {
  each_mebibyte(threads, call.size, [&](std::int64_t first, std::size_t size) {
    std::memset(static_cast<char*>(call.at) + first, 0, size);
  });
}

inline void compute(const Copy& call, const Threads& threads) {
  each_mebibyte(threads, call.size, [&](std::int64_t first, std::size_t size) {
    std::memcpy(static_cast<char*>(call.to) + first, static_cast<const char*>(call.from) + first,
                size);
  });
}

// embedding --------------------------------------------------------------------------------------

inline void compute(const EmbedForward& call, const Threads& threads) {
  each_row(threads, call.batch.rows, call.hidden, [&](std::int64_t r) {
    const auto row_of = [&](const float* table, std::int32_t id) {
      return table + std::int64_t(id) * call.hidden;
    };
    const std::int32_t id = call.batch.token_ids[r];
    const bool has_word = call.words.has(id), has_place = call.position != nullptr;
    const float* word = has_word ? row_of(call.word, id - call.words.first) : nullptr;
    const float* type = has_place ? row_of(call.token_type, call.batch.token_types[r]) : nullptr;
    const float* position = has_place ? row_of(call.position, call.batch.positions[r]) : nullptr;
    float* x = call.x + r * call.hidden;
    simd::each_lanes(call.hidden, [&](int c, auto some) {
      Lanes sum = 0.0f;
      if (has_word) sum = simd::load(word + c, some);
      if (has_place) sum = sum + simd::load(type + c, some) + simd::load(position + c, some);
      simd::store(x + c, sum, some);
    });
  });
}

inline void compute(const EmbedBackward& call, const Threads& threads) {
  const auto clear = [&](float* table, int rows) {
    each_row(threads, rows, call.hidden, [&](std::int64_t r) {
      std::memset(table + r * call.hidden, 0, sizeof(float) * std::size_t(call.hidden));
    });
  };
  if (!call.accumulate) {
    clear(call.d_word, call.vocabulary);
    clear(call.d_position, call.positions);
    clear(call.d_token_type, call.token_types);
  }
  const BatchView& batch = call.batch;
  const int rows = batch.first_row[batch.sentences];
  each_column_block(threads, rows, call.hidden, [&](int first, int columns) {
    const auto add = [&](float* table, std::int32_t id, const float* dx) {
      float* to = table + std::int64_t(id) * call.hidden + first;
      simd::each_lanes(columns, [&](int c, auto some) {
        simd::store(to + c, simd::load(to + c, some) + simd::load(dx + c, some), some);
      });
    };
    for (int r = 0; r < rows; ++r) {
      const float* dx = call.dx + std::int64_t(r) * call.hidden + first;
      const std::int32_t id = batch.token_ids[r];
      if (id != 0 && call.words().has(id)) add(call.d_word, id - call.first_word, dx);
      add(call.d_position, batch.positions[r], dx);
      add(call.d_token_type, batch.token_types[r], dx);
    }
  });
}

// norms ------------------------------------------------------------------------------------------

/// The sum over a row of f(column, All or Some), whose untouched lanes are 0.
template <class F> CTRAIN_INLINE float sum_over_row(int columns, F&& f) {
  Lanes total = 0.0f;
  simd::each_lanes(columns, [&](int c, auto some) { total = total + f(c, some); });
  return simd::sum(total);
}

CTRAIN_INLINE Lanes keep(Lanes value, All) {
  return value;
}
/// The first some.count lanes, 0 beyond.
CTRAIN_INLINE Lanes keep(Lanes value, Some some) {
  float at[simd::width];
  simd::store(at, value, All{});
  return simd::load(at, some);
}

template <class T> void layer_norm_row(const LayerNormForward<T>& call, std::int64_t r) {
  const float* x = call.x + r * call.hidden;
  T* y = call.y + r * call.hidden;
  const float mean =
      sum_over_row(call.hidden, [&](int c, auto some) { return simd::load(x + c, some); }) /
      float(call.hidden);
  const float squares = sum_over_row(call.hidden, [&](int c, auto some) {
    const Lanes off = keep(simd::load(x + c, some) - Lanes(mean), some);
    return off * off;
  });
  const float rstd = inverse_deviation(squares, call.hidden, call.epsilon);
  simd::each_lanes(call.hidden, [&](int c, auto some) {
    const Lanes xhat = normalised<Lanes>(simd::load(x + c, some), mean, rstd);
    simd::store(y + c, simd::load(call.gain + c, some) * xhat + simd::load(call.bias + c, some),
                some);
  });
  call.mean[r] = mean;
  call.rstd[r] = rstd;
}

template <class T> void compute(const LayerNormForward<T>& call, const Threads& threads) {
  each_row(threads, call.rows, call.hidden, [&](std::int64_t r) { layer_norm_row(call, r); });
}

/// d_gain and d_bias for 64 columns at most, rows summed 64 by 64.
template <class T>
void layer_norm_parameters(const LayerNormBackward<T>& call, int first, int columns) {
  simd::each_lanes(columns, [&](int c, auto some) {
    Lanes gain = 0.0f, bias = 0.0f;
    for (int start = 0; start < call.rows; start += 64) {
      Lanes part_gain = 0.0f, part_bias = 0.0f;
      for (int r = start; r < std::min(start + 64, call.rows); ++r) {
        const std::int64_t at = std::int64_t(r) * call.hidden + first + c;
        const Lanes dy = simd::load(call.dy + at, some);
        const Lanes xhat =
            normalised<Lanes>(simd::load(call.x + at, some), call.mean[r], call.rstd[r]);
        part_gain = part_gain + dy * xhat;
        part_bias = part_bias + dy;
      }
      gain = gain + part_gain;
      bias = bias + part_bias;
    }
    put(call.d_gain + first + c, gain, call.accumulate, some);
    put(call.d_bias + first + c, bias, call.accumulate, some);
  });
}

template <class T> void layer_norm_slopes(const LayerNormBackward<T>& call, std::int64_t r) {
  const std::int64_t at = r * call.hidden;
  const float mean = call.mean[r], rstd = call.rstd[r];
  const auto g = [&](int c, auto some) {
    return simd::load(call.gain + c, some) * simd::load(call.dy + at + c, some);
  };
  const auto xhat = [&](int c, auto some) {
    return normalised<Lanes>(simd::load(call.x + at + c, some), mean, rstd);
  };
  Lanes sum_g = 0.0f, sum_g_xhat = 0.0f;
  simd::each_lanes(call.hidden, [&](int c, auto some) {
    sum_g = sum_g + g(c, some);
    sum_g_xhat = sum_g_xhat + g(c, some) * xhat(c, some);
  });
  const float mean_g = simd::sum(sum_g) / float(call.hidden);
  const float mean_g_xhat = simd::sum(sum_g_xhat) / float(call.hidden);
  simd::each_lanes(call.hidden, [&](int c, auto some) {
    const Lanes slope =
        layer_norm_slope<Lanes>(g(c, some), xhat(c, some), mean_g, mean_g_xhat, rstd);
    put(call.dx + at + c, slope, call.accumulate_input, some);
  });
}

/// Parameters first: then rows' dx may overwrite dy.
template <class T>
void layer_norm_parameters(const LayerNormBackward<T>& call, const Threads& threads) {
  each_column_block(threads, call.rows, call.hidden,
                    [&](int first, int columns) { layer_norm_parameters(call, first, columns); });
}

template <class T> void compute(const LayerNormBackward<T>& call, const Threads& threads) {
  layer_norm_parameters(call, threads);
  each_row(threads, call.rows, call.hidden, [&](std::int64_t r) { layer_norm_slopes(call, r); });
}

/// to (+)= the sums of columns [first, first + count) of a matrix, rows added 64 by 64.
template <class T>
void sum_columns(float* to, const T* from, int rows, int columns, bool accumulate, int first,
                 int count) {
  simd::each_lanes(count, [&](int c, auto some) {
    Lanes total = 0.0f;
    for (int start = 0; start < rows; start += 64) {
      Lanes part = 0.0f;
      for (int r = start; r < std::min(start + 64, rows); ++r)
        part = part + simd::load(from + std::int64_t(r) * columns + first + c, some);
      total = total + part;
    }
    put(to + first + c, total, accumulate, some);
  });
}

/// sum_columns() of all columns.
template <class T>
void column_sums(float* to, const T* from, int rows, int columns, bool accumulate,
                 const Threads& threads) {
  each_column_block(threads, rows, columns, [&](int first, int count) {
    sum_columns(to, from, rows, columns, accumulate, first, count);
  });
}

// dropout ----------------------------------------------------------------------------------------

/// f(row, DropoutLanes) for every row.
template <class F>
void each_dropout_row(const Threads& threads, const Dropout& dropout, int rows, int columns,
                      F&& f) {
  each_row(threads, rows, columns,
           [&](std::int64_t r) { f(r * columns, DropoutLanes(dropout_row(dropout, int(r)))); });
}

inline void compute(const DropoutForward& call, const Threads& threads) {
  each_dropout_row(threads, call.dropout, call.rows, call.cols, [&](std::int64_t at, auto drop) {
    simd::each_lanes(call.cols, [&](int c, auto some) {
      simd::store(call.y + at + c, drop(simd::load(call.x + at + c, some), std::uint32_t(c)), some);
    });
  });
}

template <class T>
void add_dropped(const DropoutAddForward<T>& call, std::int64_t at, DropoutLanes drop) {
  simd::each_lanes(call.hidden, [&](int c, auto some) {
    const Lanes branch = drop(simd::load(call.branch + at + c, some), std::uint32_t(c));
    simd::store(call.sum + at + c, simd::load(call.residual + at + c, some) + branch, some);
  });
}

template <class T> void compute(const DropoutAddForward<T>& call, const Threads& threads) {
  each_dropout_row(threads, call.dropout, call.rows, call.hidden,
                   [&](std::int64_t at, auto drop) { add_dropped(call, at, drop); });
}

template <class T>
void drop_gradient(const DropoutAddBackward<T>& call, std::int64_t at, DropoutLanes drop) {
  simd::each_lanes(call.hidden, [&](int c, auto some) {
    const Lanes d_sum = simd::load(call.d_sum + at + c, some);
    simd::store(call.d_branch + at + c, drop(d_sum, std::uint32_t(c)), some);
  });
}

template <class T> void compute(const DropoutAddBackward<T>& call, const Threads& threads) {
  each_dropout_row(threads, call.dropout, call.rows, call.hidden,
                   [&](std::int64_t at, auto drop) { drop_gradient(call, at, drop); });
}

template <class T, class Y>
void compute(const DropoutAddLayerNormForward<T, Y>& call, const Threads& threads) {
  each_dropout_row(threads, call.add.dropout, call.add.rows, call.add.hidden,
                   [&](std::int64_t at, auto drop) {
                     add_dropped(call.add, at, drop);
                     layer_norm_row(call.norm, at / call.add.hidden);
                   });
}

template <class T, class Y>
void compute(const LayerNormDropoutAddBackward<T, Y>& call, const Threads& threads) {
  layer_norm_parameters(call.norm, threads);
  each_dropout_row(threads, call.add.dropout, call.add.rows, call.add.hidden,
                   [&](std::int64_t at, auto drop) {
                     layer_norm_slopes(call.norm, at / call.add.hidden);
                     drop_gradient(call.add, at, drop);
                   });
}

// elements ---------------------------------------------------------------------------------------

template <class T> void compute(const CastForward<T>& call, const Threads& threads) {
  map_rows(threads, call.y, call.x, call.rows, call.cols,
           [](Lanes x, std::int64_t, auto) { return x; });
}

template <class T> void compute(const CastBackward<T>& call, const Threads& threads) {
  map_rows(threads, call.dx, call.dy, call.rows, call.cols,
           [&](Lanes dy, std::int64_t at, auto some) {
             return call.accumulate_input ? simd::load(call.dx + at, some) + dy : dy;
           });
}

template <class T> void compute(const GeluForward<T>& call, const Threads& threads) {
  const auto map = [&](auto gelu) {
    map_rows(threads, call.y, call.x, call.rows, call.cols,
             [&](Lanes x, std::int64_t, auto) { return gelu(x); });
  };
  call.activation == Activation::gelu_erf ? map([](Lanes x) { return gelu_erf(x); })
                                          : map([](Lanes x) { return gelu_tanh(x); });
}

template <class T> void compute(const GeluBackward<T>& call, const Threads& threads) {
  const auto map = [&](auto slope) {
    map_rows(threads, call.dx, call.dy, call.rows, call.cols,
             [&](Lanes dy, std::int64_t at, auto some) {
               return dy * slope(simd::load(call.x + at, some));
             });
  };
  call.activation == Activation::gelu_erf ? map([](Lanes x) { return gelu_erf_slope(x); })
                                          : map([](Lanes x) { return gelu_tanh_slope(x); });
}

inline void compute(const TanhForward& call, const Threads& threads) {
  map_rows(threads, call.y, call.x, call.rows, call.cols,
           [](Lanes x, std::int64_t, auto) { return hyperbolic_tangent(x); });
}

inline void compute(const TanhBackward& call, const Threads& threads) {
  map_rows(threads, call.dx, call.dy, call.rows, call.cols,
           [&](Lanes dy, std::int64_t at, auto some) {
             return dy * tanh_slope(simd::load(call.y + at, some));
           });
}

// head -------------------------------------------------------------------------------------------

inline void compute(const SelectFirstForward& call, const Threads&) {
  const std::size_t size = sizeof(float) * std::size_t(call.hidden);
  for (std::int64_t s = 0; s < call.batch.sentences; ++s) {
    const std::int32_t row = call.batch.first_token(int(s));
    float* first = call.first + s * call.hidden;
    if (call.rows.has(row))
      std::memcpy(first, call.x + std::int64_t(row - call.rows.first) * call.hidden, size);
    else
      std::memset(first, 0, size);
  }
}

inline void compute(const SelectFirstBackward& call, const Threads& threads) {
  const std::size_t size = sizeof(float) * std::size_t(call.hidden);
  each_row(threads, call.row_count(), call.hidden,
           [&](std::int64_t r) { std::memset(call.dx + r * call.hidden, 0, size); });
  for (std::int64_t s = 0; s < call.batch.sentences; ++s)
    if (const std::int32_t row = call.batch.first_token(int(s)); call.rows.has(row))
      std::memcpy(call.dx + std::int64_t(row - call.rows.first) * call.hidden,
                  call.d_first + s * call.hidden, size);
}

inline void compute(const CrossEntropyForward& call, const Threads&) {
  for (std::int64_t s = 0; s < call.batch.sentences; ++s) {
    const float* logits = call.logits + s * call.labels;
    call.losses[s] = cross_entropy(logits, call.labels, call.batch.labels[s]);
    call.predictions[s] = index_of_largest(logits, call.labels);
  }
}

inline void compute(const CrossEntropyBackward& call, const Threads&) {
  for (std::int64_t s = 0; s < call.batch.sentences; ++s)
    cross_entropy_slope(call.d_logits + s * call.labels, call.logits + s * call.labels, call.labels,
                        call.batch.labels[s], call.factor());
}

}  // namespace ctrain::cpu
