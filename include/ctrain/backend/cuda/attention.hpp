/// \file  Device kernels of attention inside short sentences, forward and backward.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/attention_tile.hpp>
#include <ctrain/backend/math/dropout.hpp>
#include <ctrain/backend/math/softmax.hpp>

#include <cmath>

namespace ctrain::cuda {

// Where a block works
// ------------------------------------------------------------------------------

/// A block takes one head of one sentence and every `tiles`-th tile of 32 rows in it; those of the
/// sentence after the last take the rows of no sentence.
struct AttentionGrid {
  int sentences, heads, tiles;

  std::int64_t blocks() const { return (std::int64_t{sentences} + 1) * heads * tiles; }
};

/// One head of one sentence.
struct HeadPlace {
  int sentence, head, first_row, queries, keys, first_tile;

  CTRAIN_HOST_DEVICE static HeadPlace of(const AttentionGrid& grid, const BatchView& batch,
                                         std::int64_t block) {
    HeadPlace at;
    at.first_tile = int(block % grid.tiles);
    at.head = int(block / grid.tiles % grid.heads);
    at.sentence = int(block / grid.tiles / grid.heads);
    at.first_row = batch.first_row[at.sentence];
    const bool none = at.sentence == grid.sentences;
    at.queries = (none ? batch.rows : batch.first_row[at.sentence + 1]) - at.first_row;
    at.keys = none ? 0 : batch.lengths[at.sentence];
    return at;
  }
};

/// What the three kernels share. With no keys (rows of no sentence), every loop over keys is empty
/// and what they write is 0.
template <class T, int HeadSize, bool Aligned, class Call> struct AttentionKernel {
  using Tile = HeadTile<T, HeadSize>;
  static constexpr int threads = Tile::threads;
  Call call;
  AttentionGrid grid;

  std::int64_t blocks() const { return grid.blocks(); }

 protected:
  CTRAIN_HOST_DEVICE std::int64_t hidden() const {
    return std::int64_t{call.heads} * call.head_size;
  }
  CTRAIN_HOST_DEVICE float scale() const { return 1.0f / square_root(float(call.head_size)); }
  /// The head's columns of a row in an array of `parts` times hidden columns.
  template <class U>
  CTRAIN_HOST_DEVICE U* part(U* array, int parts, int which, const HeadPlace& at, int row) const {
    return array + (at.first_row + row) * parts * hidden() + which * hidden() +
           std::int64_t{at.head} * call.head_size;
  }
  CTRAIN_HOST_DEVICE void fetch(int thread, T* tile, const T* array, int parts, int which,
                                const HeadPlace& at, int row, int valid) const {
    Tile::template fetch<Aligned>(thread, tile, part(array, parts, which, at, row),
                                  parts * hidden(), valid, call.head_size);
  }
  CTRAIN_HOST_DEVICE void write(int thread, T* array, int parts, int which, const HeadPlace& at,
                                int row, int valid, const typename Tile::Rows& sum,
                                const float (&factor)[2]) const {
    Tile::template write<Aligned>(thread, part(array, parts, which, at, row), parts * hidden(), sum,
                                  factor, valid, call.head_size);
  }
  /// The dropout of a query's probabilities; none for rows beyond the sentence.
  CTRAIN_HOST_DEVICE DropoutRow dropout(const HeadPlace& at, int query) const {
    return query < at.queries ? dropout_row(call.dropout, at.first_row + query) : DropoutRow{};
  }
  CTRAIN_HOST_DEVICE std::uint32_t element(const HeadPlace& at, int key) const {
    return std::uint32_t(call.first_head + at.head) * 4096u + std::uint32_t(key);
  }
  CTRAIN_HOST_DEVICE std::int64_t row_of(const HeadPlace& at, int query) const {
    return std::int64_t{at.first_row + query} * call.heads + at.head;
  }
  CTRAIN_HOST_DEVICE static int valid_rows(int count, int start) {
    return count - start < Tile::rows ? count - start : Tile::rows;
  }
};

// forward -----------------------------------------------------------------------------------------

/// Online softmax over tiles of keys (Dao et al., arXiv 2205.14135, algorithm 1).
template <class T, int HeadSize, bool Aligned>
struct Attend : AttentionKernel<T, HeadSize, Aligned, AttentionForward<T>> {
  using Base = AttentionKernel<T, HeadSize, Aligned, AttentionForward<T>>;
  using Tile = typename Base::Tile;
  static constexpr int threads = Tile::threads;

  int shared_bytes() const { return 3 * Tile::bytes + Tile::weight_bytes; }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const HeadPlace at = HeadPlace::of(this->grid, this->call.batch, block.index());
    for (int start = at.first_tile * Tile::rows; start < at.queries;
         start += this->grid.tiles * Tile::rows)
      attend(block, at, start);
  }

 private:
  struct Softmax {
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  };

  template <Block B>
  CTRAIN_HOST_DEVICE void attend(B& block, const HeadPlace& at, int start) const {
    auto* q = reinterpret_cast<T*>(block.shared());
    T* k = q + Tile::elements;
    T* v = k + Tile::elements;
    auto* weights = reinterpret_cast<float*>(v + Tile::elements);
    const int thread = block.thread(), queries = Base::valid_rows(at.queries, start);
    const DropoutRow drop[2] = {this->dropout(at, start + Tile::own_row(thread, 0)),
                                this->dropout(at, start + Tile::own_row(thread, 1))};
    Softmax softmax;
    typename Tile::Rows context;

    block.sync();  // the tile before is read
    this->fetch(thread, q, this->call.qkv, 3, 0, at, start, queries);
    for (int first = 0; first < at.keys; first += Tile::rows) {
      const int keys = Base::valid_rows(at.keys, first);
      this->fetch(thread, k, this->call.qkv, 3, 1, at, first, keys);
      this->fetch(thread, v, this->call.qkv, 3, 2, at, first, keys);
      block.sync();
      typename Tile::Scores p = Tile::products(thread, q, k);
      take_in(block, p, keys, softmax, context);
      Tile::drop(thread, p, drop, this->element(at, first));
      Tile::put(thread, weights, p);
      block.sync();
      Tile::add_weighted(thread, context, weights, v, keys);
      block.sync();
    }
    finish(thread, at, start, queries, softmax, context);
  }

  /// Scores become weights under the running maximum; what was summed before is scaled to it.
  template <Block B>
  CTRAIN_HOST_DEVICE void take_in(B& block, typename Tile::Scores& p, int keys, Softmax& softmax,
                                  typename Tile::Rows& context) const {
    const float scale = this->scale();
    unrolled<2>([&](auto i) {
      float largest = softmax.largest[i];
      unrolled<4>([&](auto j) {
        const bool valid = Tile::own_column(block.thread(), j) < keys;
        p.at[i][j] = valid ? p.at[i][j] * scale : -INFINITY;
        largest = p.at[i][j] > largest ? p.at[i][j] : largest;
      });
      largest = Tile::row_max(block, largest);
      float sum = 0;
      unrolled<4>([&](auto j) { sum += p.at[i][j] = exponential(p.at[i][j] - largest); });
      const float before = exponential(softmax.largest[i] - largest);
      softmax.sum[i] = softmax.sum[i] * before + Tile::row_sum(block, sum);
      softmax.largest[i] = largest;
      unrolled<Tile::groups * Tile::group>([&](auto c) { context.at[i][c] *= before; });
    });
  }

  CTRAIN_HOST_DEVICE void finish(int thread, const HeadPlace& at, int start, int queries,
                                 const Softmax& softmax, const typename Tile::Rows& context) const {
    float factor[2];
    for (int i = 0; i < 2; ++i) {
      factor[i] = at.keys > 0 ? 1.0f / softmax.sum[i] : 0.0f;
      if (thread % 8 == 0 && Tile::own_row(thread, i) < queries)
        this->call.lse[this->row_of(at, start + Tile::own_row(thread, i))] =
            at.keys > 0 ? softmax.largest[i] + natural_logarithm(softmax.sum[i]) : 0.0f;
    }
    this->write(thread, this->call.context, 1, 0, at, start, queries, context, factor);
  }
};

// backward ----------------------------------------------------------------------------------------

/// What both kernels of the backward pass compute of a tile of queries and a tile of keys.
template <class T, int HeadSize, bool Aligned>
struct AttentionSlope : AttentionKernel<T, HeadSize, Aligned, AttentionBackward<T>> {
  using Base = AttentionKernel<T, HeadSize, Aligned, AttentionBackward<T>>;
  using Tile = typename Base::Tile;

 protected:
  /// Of the two queries that a thread owns.
  struct Queries {
    float lse[2], delta[2];
    DropoutRow drop[2];
  };
  /// Both (queries, keys).
  struct Products {
    typename Tile::Scores dropped;  // probabilities after dropout
    typename Tile::Scores slope;    // of the scaled scores
  };

  CTRAIN_HOST_DEVICE Queries queries_at(int thread, const HeadPlace& at, int first,
                                        const float* delta) const {
    Queries of;
    unrolled<2>([&](auto i) {
      const int query = first + Tile::own_row(thread, i);
      const bool valid = query < at.queries;
      of.lse[i] = valid ? this->call.lse[this->row_of(at, query)] : 0.0f;
      of.delta[i] = valid ? delta[this->row_of(at, query)] : 0.0f;
      of.drop[i] = this->dropout(at, query);
    });
    return of;
  }

  /// `first_key`: the tile's first. Rows beyond the sentence are zeros in d_context and delta, so
  /// they only meet zeros.
  CTRAIN_HOST_DEVICE Products slopes(int thread, const HeadPlace& at, const Queries& of,
                                     int first_key, const T* q, const T* k, const T* v,
                                     const T* d_context) const {
    Products result;
    typename Tile::Scores p = Tile::products(thread, q, k);
    unrolled<2>([&](auto i) {
      unrolled<4>([&](auto j) { p.at[i][j] = probability(p.at[i][j] * this->scale(), of.lse[i]); });
    });
    // The same draws for both: ones become the factors of dropout.
    typename Tile::Scores factor;
    unrolled<2>([&](auto i) { unrolled<4>([&](auto j) { factor.at[i][j] = 1; }); });
    Tile::drop(thread, factor, of.drop, this->element(at, first_key));
    const typename Tile::Scores dp = Tile::products(thread, d_context, v);
    unrolled<2>([&](auto i) {
      unrolled<4>([&](auto j) {
        result.dropped.at[i][j] = p.at[i][j] * factor.at[i][j];
        result.slope.at[i][j] =
            softmax_slope(p.at[i][j], dp.at[i][j] * factor.at[i][j], of.delta[i]);
      });
    });
    return result;
  }
};

/// delta (rows, heads): row sums of d_context * context, which the other two read. One warp per row
/// and head, Group elements of a lane at a time.
template <class T, int Group> struct ContextSlopes {
  static constexpr int threads = 128;
  static constexpr int warps = threads / warp_size;
  float* delta;
  const T* d_context;
  const T* context;
  int rows, heads, head_size;

  std::int64_t blocks() const {
    return ceil_divide(std::int64_t{rows} * heads, std::int64_t{warps});
  }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const std::int64_t at = block.index() * warps + block.thread() / warp_size;
    if (at >= std::int64_t{rows} * heads) return;
    float sum = 0;
    for (int c = block.thread() % warp_size * Group; c < head_size; c += warp_size * Group) {
      const Values<Group> x = load<Group>(d_context + at * head_size + c),
                          y = load<Group>(context + at * head_size + c);
      for (int i = 0; i < Group; ++i) sum += x[i] * y[i];
    }
    sum = warp_sum(block, sum);
    if (block.thread() % warp_size == 0) delta[at] = sum;
  }
};

/// d_q of a tile of queries.
template <class T, int HeadSize, bool Aligned>
struct AttendQueriesSlope : AttentionSlope<T, HeadSize, Aligned> {
  using Base = AttentionSlope<T, HeadSize, Aligned>;
  using Tile = typename Base::Tile;
  static constexpr int threads = Tile::threads;
  const float* delta;

  int shared_bytes() const { return 4 * Tile::bytes + Tile::weight_bytes; }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const HeadPlace at = HeadPlace::of(this->grid, this->call.batch, block.index());
    for (int start = at.first_tile * Tile::rows; start < at.queries;
         start += this->grid.tiles * Tile::rows)
      attend(block, at, start);
  }

 private:
  template <Block B>
  CTRAIN_HOST_DEVICE void attend(B& block, const HeadPlace& at, int start) const {
    auto* q = reinterpret_cast<T*>(block.shared());
    T* k = q + Tile::elements;
    T* v = k + Tile::elements;
    T* d_context = v + Tile::elements;
    auto* weights = reinterpret_cast<float*>(d_context + Tile::elements);
    const int thread = block.thread(), queries = Base::valid_rows(at.queries, start);
    const typename Base::Queries of = this->queries_at(thread, at, start, delta);

    typename Tile::Rows d_q;
    block.sync();  // the tile before is read
    this->fetch(thread, q, this->call.qkv, 3, 0, at, start, queries);
    this->fetch(thread, d_context, this->call.d_context, 1, 0, at, start, queries);
    for (int first = 0; first < at.keys; first += Tile::rows) {
      const int keys = Base::valid_rows(at.keys, first);
      this->fetch(thread, k, this->call.qkv, 3, 1, at, first, keys);
      this->fetch(thread, v, this->call.qkv, 3, 2, at, first, keys);
      block.sync();
      Tile::put(thread, weights, this->slopes(thread, at, of, first, q, k, v, d_context).slope);
      block.sync();
      Tile::add_weighted(thread, d_q, weights, k, keys);
      block.sync();
    }
    const float factor[2] = {this->scale(), this->scale()};
    this->write(thread, this->call.d_qkv, 3, 0, at, start, queries, d_q, factor);
  }
};

/// d_k and d_v of a tile of rows; rows that are no keys get 0.
template <class T, int HeadSize, bool Aligned>
struct AttendKeysSlope : AttentionSlope<T, HeadSize, Aligned> {
  using Base = AttentionSlope<T, HeadSize, Aligned>;
  using Tile = typename Base::Tile;
  static constexpr int threads = Tile::threads;
  const float* delta;

  int shared_bytes() const { return 4 * Tile::bytes + 2 * Tile::weight_bytes; }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const HeadPlace at = HeadPlace::of(this->grid, this->call.batch, block.index());
    for (int start = at.first_tile * Tile::rows; start < at.queries;
         start += this->grid.tiles * Tile::rows)
      attend(block, at, start);
  }

 private:
  template <Block B>
  CTRAIN_HOST_DEVICE void attend(B& block, const HeadPlace& at, int start) const {
    auto* q = reinterpret_cast<T*>(block.shared());
    T* k = q + Tile::elements;
    T* v = k + Tile::elements;
    T* d_context = v + Tile::elements;
    auto* dropped = reinterpret_cast<float*>(d_context + Tile::elements);
    float* slopes = dropped + Tile::weight_bytes / int(sizeof(float));
    const int thread = block.thread(), rows = Base::valid_rows(at.queries, start);
    const int keys = start < at.keys ? Base::valid_rows(at.keys, start) : 0;

    typename Tile::Rows d_k, d_v;
    block.sync();  // the tile before is read
    this->fetch(thread, k, this->call.qkv, 3, 1, at, start, keys);
    this->fetch(thread, v, this->call.qkv, 3, 2, at, start, keys);
    for (int first = 0; keys > 0 && first < at.queries; first += Tile::rows) {
      const int queries = Base::valid_rows(at.queries, first);
      this->fetch(thread, q, this->call.qkv, 3, 0, at, first, queries);
      this->fetch(thread, d_context, this->call.d_context, 1, 0, at, first, queries);
      block.sync();
      const typename Base::Products products = this->slopes(
          thread, at, this->queries_at(thread, at, first, delta), start, q, k, v, d_context);
      Tile::put_transposed(thread, dropped, products.dropped);
      Tile::put_transposed(thread, slopes, products.slope);
      block.sync();
      Tile::add_weighted(thread, d_v, dropped, d_context, queries);
      Tile::add_weighted(thread, d_k, slopes, q, queries);
      block.sync();
    }
    const float own[2] = {own_factor(thread, 0, keys), own_factor(thread, 1, keys)};
    const float scaled[2] = {own[0] * this->scale(), own[1] * this->scale()};
    this->write(thread, this->call.d_qkv, 3, 1, at, start, rows, d_k, scaled);
    this->write(thread, this->call.d_qkv, 3, 2, at, start, rows, d_v, own);
  }

  CTRAIN_HOST_DEVICE static float own_factor(int thread, int i, int keys) {
    return Tile::own_row(thread, i) < keys ? 1.0f : 0.0f;
  }
};

// calls -------------------------------------------------------------------------------------------

/// Largest head that a tile holds.
inline constexpr int largest_head = 256;

/// run.template operator()<HeadSize, Aligned>() for the smallest tile that holds the head.
template <class T, class Run> void with_head_size(int size, bool aligned, Run&& run) {
  const auto sized = [&]<int HeadSize>() {
    if (aligned)
      run.template operator()<HeadSize, true>();
    else
      run.template operator()<HeadSize, false>();
  };
  if (size <= 64)
    sized.template operator()<64>();
  else if (size <= 128)
    sized.template operator()<128>();
  else
    sized.template operator()<largest_head>();
}

template <class Call> AttentionGrid attention_grid(const Call& call) {
  return {call.batch.sentences, call.heads, ceil_divide(call.length, 32)};
}

template <class T, Stream S> void compute(const AttentionForward<T>& call, S& stream) {
  const bool aligned = rows_allow_groups(group_of<T>, call.head_size, call.context, call.qkv);
  with_head_size<T>(call.head_size, aligned, [&]<int HeadSize, bool Aligned>() {
    stream.launch(Attend<T, HeadSize, Aligned>{{call, attention_grid(call)}});
  });
}

template <class T, Stream S> void compute(const AttentionBackward<T>& call, S& stream) {
  const bool aligned = rows_allow_groups(group_of<T>, call.head_size, call.d_qkv, call.d_context,
                                         call.context, call.qkv);
  float* delta = stream.template scratch<float>(std::int64_t{call.batch.rows} * call.heads);
  const auto sum_context = [&]<int Group>() {
    stream.launch(ContextSlopes<T, Group>{delta, call.d_context, call.context, call.batch.rows,
                                          call.heads, call.head_size});
  };
  if (aligned)
    sum_context.template operator()<group_of<T>>();
  else
    sum_context.template operator()<1>();
  with_head_size<T>(call.head_size, aligned, [&]<int HeadSize, bool Aligned>() {
    stream.launch(AttendQueriesSlope<T, HeadSize, Aligned>{{call, attention_grid(call)}, delta});
    stream.launch(AttendKeysSlope<T, HeadSize, Aligned>{{call, attention_grid(call)}, delta});
  });
}

}  // namespace ctrain::cuda
