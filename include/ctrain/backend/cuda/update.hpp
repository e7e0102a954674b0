/// \file  Device kernels of the update: gradient norm, AdamW.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/math/adamw.hpp>
#include <ctrain/backend/math/sum_of_squares.hpp>

namespace ctrain::cuda {

// kernels -----------------------------------------------------------------------------------------

/// One block per chunk: each thread takes 16 elements at a time, and integers add in any order.
template <class G, int Group> struct SumSquaresChunks {
  static constexpr int threads = 128;
  ExactSum* partial;  // (chunks)
  const G* values;
  std::int64_t count;

  std::int64_t blocks() const { return ceil_divide(count, squares_chunk); }
  int shared_bytes() const { return threads * int(sizeof(ExactSum)); }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    auto* sums = reinterpret_cast<ExactSum*>(block.shared());
    const std::int64_t first = block.index() * squares_chunk;
    const int length = int(count - first < squares_chunk ? count - first : squares_chunk);
    ExactSum sum;
    for (int i = block.thread() * 16; i < length; i += threads * 16)
      add_squares(sum, values + first + i, length - i);
    sum.carry();
    sums[block.thread()] = sum;
    block.sync();
    if (block.thread() != 0) return;
    for (int i = 1; i < threads; ++i) sum.add(sums[i]);
    partial[block.index()] = sum;
  }

 private:
  CTRAIN_HOST_DEVICE static void add_squares(ExactSum& sum, const G* from, int here) {
    float x[16];
    for (int i = 0; i < 16; i += Group)
      if (i + Group <= here)
        store(x + i, load<Group>(from + i));
      else
        for (int j = i; j < i + Group; ++j) x[j] = j < here ? float(from[j]) : 0.0f;
    for (int i = 0; i < 8; ++i)
      sum.add(double(x[i]) * double(x[i]) + double(x[i + 8]) * double(x[i + 8]));
  }
};

/// *sum += the chunks: one thread.
struct FoldSquares {
  static constexpr int threads = 32;
  ExactSum* sum;
  const ExactSum* partial;
  std::int64_t chunks;

  std::int64_t blocks() const { return 1; }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    if (block.thread() != 0) return;
    ExactSum total = *sum;
    for (std::int64_t i = 0; i < chunks; ++i) total.add(partial[i]);
    *sum = total;
  }
};

/// One pass: 28 bytes an element. `factors` are those of a call that points to none.
template <OptimizerKind Kind, class G> struct AdamWOp {
  AdamWUpdateOf<G> call;
  AdamWFactors factors;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    if (!is_skipped(call)) step<N>(i);
  }
  /// The weights that it has written.
  template <int N> CTRAIN_HOST_DEVICE Values<N> step(std::int64_t i) const {
    const AdamWFactors by = call.decided != nullptr ? *call.decided : factors;
    Values<N> w = load<N>(call.weight + i), m = load<N>(call.first_moment + i),
              v = load<N>(call.second_moment + i);
    const Values<N> g = load<N>(call.gradient + i);
    for (int j = 0; j < N; ++j) {
      const AdamWElement<float> after =
          adamw<Kind>(AdamWElement<float>{w[j], m[j], v[j]}, g[j], by);
      w[j] = after.weight, m[j] = after.first_moment, v[j] = after.second_moment;
    }
    store(call.weight + i, w);
    store(call.first_moment + i, m);
    store(call.second_moment + i, v);
    return w;
  }
};

/// The same, and the copy of the weights that products read, which nobody else writes.
template <OptimizerKind Kind, class G, class T> struct AdamWIntoCopyOp {
  AdamWOp<Kind, G> update;
  T* copy;

  template <int N> CTRAIN_HOST_DEVICE void at(std::int64_t i) const {
    if (!is_skipped(update.call)) store(copy + i, update.template step<N>(i));
  }
};

// calls -------------------------------------------------------------------------------------------

template <class G, Stream S> void compute(const SumOfSquaresOf<G>& call, S& stream) {
  constexpr int group = group_of<G>;
  const std::int64_t chunks = ceil_divide(call.count, squares_chunk);
  ExactSum* partial = stream.template scratch<ExactSum>(chunks);
  if (rows_allow_groups(group, 0, call.values))
    stream.launch(SumSquaresChunks<G, group>{partial, call.values, call.count});
  else
    stream.launch(SumSquaresChunks<G, 1>{partial, call.values, call.count});
  stream.launch(FoldSquares{call.sum, partial, chunks});
}

template <class G> AdamWFactors factors_for_a_device(const AdamWUpdateOf<G>& call) {
  return call.decided != nullptr ? AdamWFactors{} : adamw_factors(call);
}

template <class G, Stream S> void compute(const AdamWUpdateOf<G>& call, S& stream) {
  with_adam_kind(call.kind, [&](auto kind) {
    each_element<group_of<G>>(stream, AdamWOp<kind, G>{call, factors_for_a_device(call)},
                              call.count, call.weight, call.first_moment, call.second_moment,
                              call.gradient);
  });
}

/// Device weights have one copy, row-major like the master: its part of these rows.
template <class T, class G, Stream S>
void compute(const AdamWUpdateAndPrepare<T, G>& call, S& stream) {
  const AdamWUpdateOf<G>& update = call.update;
  T* const copy = call.prepare.forward + std::int64_t{call.rows.first} * call.prepare.in;
  with_adam_kind(update.kind, [&](auto kind) {
    each_element<std::max(group_of<G>, group_of<T>)>(
        stream, AdamWIntoCopyOp<kind, G, T>{{update, factors_for_a_device(update)}, copy},
        update.count, update.weight, update.first_moment, update.second_moment, update.gradient,
        copy);
  });
}

}  // namespace ctrain::cuda
