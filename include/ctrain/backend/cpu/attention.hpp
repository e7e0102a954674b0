/// \file  Softmax attention inside each sentence, forward and backward.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cpu/dropout.hpp>
#include <ctrain/backend/cpu/multiply.hpp>
#include <ctrain/backend/cpu/threads.hpp>
#include <ctrain/backend/cpu/tiles.hpp>
#include <ctrain/backend/math/softmax.hpp>

#include <cmath>
#include <cstring>

namespace ctrain::cpu {

/// One head of one sentence: where its rows and its keys are.
struct HeadOfSentence {
  int head = 0, first_row = 0, queries = 0, keys = 0;

  template <class T>
  Block<T> block(T* matrix, std::int64_t row_size, std::int64_t column, int rows, int size) const {
    return {matrix + first_row * row_size + column + std::int64_t(head) * size, row_size, rows,
            size};
  }
};

/// The queries, keys and values of a head (or their gradients).
template <class T> struct HeadBlocks { Block<T> q, k, v; };

template <class T>
HeadBlocks<T> head_blocks(T* qkv, const HeadOfSentence& at, int heads, int size) {
  const std::int64_t hidden = std::int64_t(heads) * size;
  return {at.block(qkv, 3 * hidden, 0, at.queries, size),
          at.block(qkv, 3 * hidden, hidden, at.keys, size),
          at.block(qkv, 3 * hidden, 2 * hidden, at.keys, size)};
}

/// products[i * stride + j] = dot(a row i, b row j).
template <class T>
void row_products(float* products, int stride, const Block<const T>& a, const Block<const T>& b) {
  constexpr int group = Panels<T>::group;
  if (a.columns % group != 0) return dot_products(products, stride, a, b);
  multiply_small(FactorRows<T>{a.first, a.stride, group}, a.rows,
                 Operand<T>{b.first, 1, b.stride, a.columns, b.rows},
                 [&](int i, int j, simd::Lanes sum, auto some) {
                   simd::store(products + i * stride + j, sum, some);
                 });
}

/// Row i of `to` = sum over k of weights[i * row_step + k * source_step] * source row k.
template <class T>
void combine_rows(const Block<T>& to, const float* weights, int row_step, int source_step,
                  const Block<const T>& source) {
  multiply_small(
      FactorRows<float>{weights, row_step, source_step}, to.rows,
      Operand<T>{source.first, source.stride, 1, source.rows, source.columns},
      [&](int i, int c, simd::Lanes sum, auto some) { simd::store(to.row(i) + c, sum, some); });
}

/// f(HeadOfSentence, workspace) for every head of every sentence; each is one thread's.
template <class Call, class F> void each_head(const Call& call, const Threads& threads, F&& f) {
  const BatchView& batch = call.batch;
  const std::int64_t plane = std::int64_t(call.length) * call.length;
  threads.each_uneven(std::int64_t(batch.sentences) * call.heads, call.workspace_workers,
                      [&](std::int64_t i, int worker) {
                        const int s = int(i / call.heads), first = batch.first_row[s];
                        f(HeadOfSentence{int(i % call.heads), first, batch.first_row[s + 1] - first,
                                         batch.lengths[s]},
                          call.workspace + 2 * plane * worker);
                      });
}

template <class T> void clear_rows(T* matrix, std::int64_t columns, int first, int end) {
  if (first < end)
    std::memset(static_cast<void*>(matrix + first * columns), 0,
                sizeof(T) * std::size_t(columns) * std::size_t(end - first));
}

/// The dropout of a query's probabilities.
template <class Call> DropoutLanes probability_dropout(const Call& call, int row) {
  return DropoutLanes(dropout_row(call.dropout, row));
}

/// The element of a head's first probability in dropout, heads counted over the whole model.
template <class Call> std::uint32_t first_element(const Call& call, const HeadOfSentence& at) {
  return std::uint32_t(call.first_head + at.head) * 4096u;
}

/// Scores of one query become dropped probabilities; returns the log of the sum of exponentials.
inline float softmax_row(float* scores, int keys, float scale, DropoutLanes drop,
                         std::uint32_t first_element) {
  float most = -INFINITY;
  for (int k = 0; k < keys; ++k) most = scores[k] > most ? scores[k] : most;
  most *= scale;
  simd::Lanes total = 0.0f;
  simd::each_lanes(keys, [&](int k, auto some) {
    const simd::Lanes score = simd::load(scores + k, some) * simd::Lanes(scale);
    simd::store(scores + k, probability<simd::Lanes>(score, most), some);
    total = total + simd::load(scores + k, some);
  });
  const float whole = simd::sum(total);
  simd::each_lanes(keys, [&](int k, auto some) {
    const simd::Lanes p = simd::load(scores + k, some) * simd::Lanes(1.0f / whole);
    simd::store(scores + k, drop(p, first_element + std::uint32_t(k)), some);
  });
  return most + natural_logarithm(whole);
}

template <class T> void compute(const AttentionForward<T>& call, const Threads& threads) {
  const std::int64_t hidden = std::int64_t(call.heads) * call.head_size;
  const float scale = 1.0f / std::sqrt(float(call.head_size));
  each_head(call, threads, [&](const HeadOfSentence& at, float* scores) {
    const auto [q, k, v] = head_blocks(call.qkv, at, call.heads, call.head_size);
    const auto context = at.block(call.context, hidden, 0, at.queries, call.head_size);
    if (at.keys > 0) row_products(scores, call.length, q, k);
    for (int i = 0; i < at.queries; ++i) {
      const int row = at.first_row + i;
      call.lse[std::int64_t(row) * call.heads + at.head] =
          at.keys == 0 ? 0.0f
                       : softmax_row(scores + i * call.length, at.keys, scale,
                                     probability_dropout(call, row), first_element(call, at));
    }
    combine_rows(context, scores, call.length, 1, v);
  });
  const int used = call.batch.first_row[call.batch.sentences];
  clear_rows(call.context, hidden, used, call.batch.rows);
  clear_rows(call.lse, call.heads, used, call.batch.rows);
}

/// Scores of one query become dropped probabilities, gradients of those become gradients of the
/// products q k.
inline void softmax_row_backward(float* scores, float* slopes, int keys, float scale, float lse,
                                 const DropoutLanes& drop, std::uint32_t first_element) {
  simd::Lanes total = 0.0f;
  DropoutLanes drop_slope = drop;
  simd::each_lanes(keys, [&](int k, auto some) {
    const simd::Lanes p =
        probability<simd::Lanes>(simd::load(scores + k, some) * simd::Lanes(scale), lse);
    const simd::Lanes slope =
        drop_slope(simd::load(slopes + k, some), first_element + std::uint32_t(k));
    simd::store(scores + k, p, some);
    simd::store(slopes + k, slope, some);
    total = simd::multiply_add(simd::load(scores + k, some), slope, total);
  });
  const simd::Lanes delta = simd::sum(total);
  DropoutLanes drop_probability = drop;
  simd::each_lanes(keys, [&](int k, auto some) {
    const simd::Lanes p = simd::load(scores + k, some);
    const simd::Lanes slope = softmax_slope(p, simd::load(slopes + k, some), delta);
    simd::store(slopes + k, slope * simd::Lanes(scale), some);
    simd::store(scores + k, drop_probability(p, first_element + std::uint32_t(k)), some);
  });
}

template <class T> void compute(const AttentionBackward<T>& call, const Threads& threads) {
  const std::int64_t hidden = std::int64_t(call.heads) * call.head_size;
  const float scale = 1.0f / std::sqrt(float(call.head_size));
  each_head(call, threads, [&](const HeadOfSentence& at, float* scores) {
    float* slopes = scores + std::int64_t(call.length) * call.length;
    const auto [q, k, v] = head_blocks(call.qkv, at, call.heads, call.head_size);
    const auto [d_q, d_k, d_v] = head_blocks(call.d_qkv, at, call.heads, call.head_size);
    const auto d_context = at.block(call.d_context, hidden, 0, at.queries, call.head_size);
    if (at.keys > 0) {
      row_products(scores, call.length, q, k);
      row_products(slopes, call.length, d_context, v);
    }
    for (int i = 0; i < at.queries; ++i) {
      const int row = at.first_row + i;
      softmax_row_backward(scores + i * call.length, slopes + i * call.length, at.keys, scale,
                           call.lse[std::int64_t(row) * call.heads + at.head],
                           probability_dropout(call, row), first_element(call, at));
    }
    combine_rows(d_q, slopes, call.length, 1, k);
    combine_rows(d_k, slopes, 1, call.length, q);
    combine_rows(d_v, scores, 1, call.length, d_context);
    for (int i = at.keys; i < at.queries; ++i)  // padding: never a key
      for (int part = 1; part < 3; ++part)
        std::memset(static_cast<void*>(d_q.row(i) + part * hidden), 0,
                    sizeof(T) * std::size_t(call.head_size));
  });
  clear_rows(call.d_qkv, 3 * hidden, call.batch.first_row[call.batch.sentences], call.batch.rows);
}

}  // namespace ctrain::cpu
