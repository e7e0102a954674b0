/// \file  Device kernels of the embedding: three gathers, and their scatter without atomics.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/cuda/elementwise.hpp>

namespace ctrain::cuda {

/// One block per row. What a rank does not have adds 0.
template <int Group> struct GatherEmbeddings {
  static constexpr int threads = 128;
  EmbedForward call;

  std::int64_t blocks() const { return call.batch.rows; }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const std::int64_t row = block.index();
    const std::int32_t id = call.batch.token_ids[row];
    const auto row_of = [&](const float* table, std::int32_t r) {
      return table + std::int64_t{r} * call.hidden;
    };
    for (int c = block.thread() * Group; c < call.hidden; c += threads * Group) {
      Values<Group> sum{};
      if (call.words.has(id)) sum = load<Group>(row_of(call.word, id - call.words.first) + c);
      if (call.position != nullptr) {
        add(sum, load<Group>(row_of(call.token_type, call.batch.token_types[row]) + c));
        add(sum, load<Group>(row_of(call.position, call.batch.positions[row]) + c));
      }
      store(call.x + row * call.hidden + c, sum);
    }
  }

 private:
  CTRAIN_HOST_DEVICE static void add(Values<Group>& sum, const Values<Group>& value) {
    for (int i = 0; i < Group; ++i) sum[i] += value[i];
  }
};

/// table[ids[r]] += dx[r] for every row of a sentence, rows of one id in row order. The block of an
/// id's first row owns the id: it finds the other rows by comparing ids, and no two blocks touch
/// the same bytes. `table` holds the ids `held`; `skipped` is an id that gets nothing (-1: none).
template <int Group> struct ScatterRows {
  static constexpr int threads = 128;
  float* table;
  const std::int32_t* ids;
  const float* dx;
  const std::int32_t* end;  // how many rows belong to sentences
  int rows, hidden;         // rows: a bound of *end
  std::int32_t skipped;
  RowRange held;

  std::int64_t blocks() const { return std::int64_t{rows} * ceil_divide(hidden, threads * Group); }
  int shared_bytes() const { return 2 * threads / warp_size * int(sizeof(std::uint32_t)); }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const int owner = int(block.index() % rows);
    if (owner >= *end) return;
    const std::int32_t id = ids[owner];
    if (id == skipped || !held.has(id) || occurs_before(block, id, owner)) return;
    block.sync();  // votes are read: their places are free

    const int column = (int(block.index() / rows) * threads + block.thread()) * Group;
    const bool writes = column < hidden;
    float* to = table + std::int64_t{id - held.first} * hidden + column;
    Values<Group> sum{};
    if (writes) sum = load<Group>(to);
    for (int first = owner; first < *end; first += threads) {
      const std::uint32_t* found = vote(block, matches(id, first + block.thread(), *end), first);
      if (writes)
        for (int warp = 0; warp < threads / warp_size; ++warp)
          for (std::uint32_t left = found[warp]; left != 0; left &= left - 1)
            add(sum, first + warp * warp_size + lowest_bit(left), column);
    }
    if (writes) store(to, sum);
  }

 private:
  CTRAIN_HOST_DEVICE bool matches(std::int32_t id, int row, int bound) const {
    return row < bound && ids[row] == id;
  }
  template <Block B>
  CTRAIN_HOST_DEVICE bool occurs_before(B& block, std::int32_t id, int owner) const {
    for (int first = 0; first < owner; first += threads) {
      const std::uint32_t* found = vote(block, matches(id, first + block.thread(), owner), first);
      for (int warp = 0; warp < threads / warp_size; ++warp)
        if (found[warp] != 0) return true;
    }
    return false;
  }
  /// The block's votes, one word a warp, in one of two places: the other may still be read.
  template <Block B>
  CTRAIN_HOST_DEVICE const std::uint32_t* vote(B& block, bool mine, int first) const {
    auto* shared = reinterpret_cast<std::uint32_t*>(block.shared()) +
                   (first / threads & 1) * (threads / warp_size);
    const std::uint32_t votes = block.ballot(mine);
    if (block.thread() % warp_size == 0) shared[block.thread() / warp_size] = votes;
    block.sync();
    return shared;
  }
  CTRAIN_HOST_DEVICE static int lowest_bit(std::uint32_t word) {
#ifdef __CUDA_ARCH__
    return __ffs(int(word)) - 1;
#else
    return __builtin_ctz(word);
#endif
  }
  CTRAIN_HOST_DEVICE void add(Values<Group>& sum, int row, int column) const {
    const Values<Group> value = load<Group>(dx + std::int64_t{row} * hidden + column);
    for (int i = 0; i < Group; ++i) sum[i] += value[i];
  }
};

template <Stream S> void compute(const EmbedForward& call, S& stream) {
  if (rows_allow_groups(4, call.hidden, call.x, call.word, call.position, call.token_type))
    stream.launch(GatherEmbeddings<4>{call});
  else
    stream.launch(GatherEmbeddings<1>{call});
}

template <Stream S> void compute(const EmbedBackward& call, S& stream) {
  const auto scatter = [&](float* table, RowRange held, const std::int32_t* ids, int skipped) {
    if (!call.accumulate) fill_zero(stream, table, std::int64_t{held.count} * call.hidden);
    const auto run = [&]<int Group>(Index<Group>) {
      stream.launch(ScatterRows<Group>{table, ids, call.dx,
                                       call.batch.first_row + call.batch.sentences, call.batch.rows,
                                       call.hidden, skipped, held});
    };
    if (rows_allow_groups(4, call.hidden, table, call.dx))
      run(Index<4>{});
    else
      run(Index<1>{});
  };
  scatter(call.d_word, call.words(), call.batch.token_ids, 0);
  scatter(call.d_position, {0, call.positions}, call.batch.positions, -1);
  scatter(call.d_token_type, {0, call.token_types}, call.batch.token_types, -1);
}

}  // namespace ctrain::cuda
