/// \file  Device kernels of dropout on rows, alone or added to a residual.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/math/dropout.hpp>

namespace ctrain::cuda {

/// Dropout of a row by a block, `Group` neighbours of a thread at a time. A Philox call gives the
/// draws of 8 elements that lie 16 apart, but a thread reads neighbours: so each thread makes one
/// call and draws pass through shared memory.
template <int Group> struct RowDropout {
  static constexpr int threads = 128;
  static constexpr int tile = threads * 8;  // elements of a row whose draws are made at once
  static constexpr int shared_bytes = tile * int(sizeof(std::uint16_t));

  /// visit(c, dropped) for each of the thread's groups [c, c + Group), where dropped(values) is
  /// what dropout leaves of the elements there. Thread t has the groups t, t + threads, ...
  template <Block B, class Visit>
  CTRAIN_HOST_DEVICE static void each_group(B& block, const DropoutRow& drop, int cols,
                                            std::uint16_t* draws, const Visit& visit) {
    for (int first = 0; first < cols; first += tile) {
      if (drop.threshold != 0) make_draws(block, drop, first, draws);
      const int end = first + tile < cols ? first + tile : cols;
      for (int c = first + block.thread() * Group; c < end; c += threads * Group)
        visit(c, [&](Values<Group> value) {
          if (drop.threshold != 0)
            for (int i = 0; i < Group; ++i)
              value[i] = draws[c - first + i] < drop.threshold ? 0.0f : value[i] * drop.scale;
          return value;
        });
      block.sync();
    }
  }

 private:
  /// draws[i] = dropout_draw of element first + i; see core/philox.hpp for the layout.
  template <Block B>
  CTRAIN_HOST_DEVICE static void make_draws(B& block, const DropoutRow& drop, int first,
                                            std::uint16_t* draws) {
    const int group = block.thread() / 16, call = block.thread() % 16;
    const Words words = philox({std::uint32_t(first / 128 + group) * 16u + std::uint32_t(call),
                                drop.token, drop.key.layer_site, drop.key.step},
                               std::uint32_t(drop.key.seed), std::uint32_t(drop.key.seed >> 32));
    const std::uint32_t word[4] = {words.x, words.y, words.z, words.w};
    for (int half = 0; half < 8; ++half)
      draws[group * 128 + half * 16 + call] =
          std::uint16_t(half % 2 == 0 ? word[half / 2] & 0xffffu : word[half / 2] >> 16);
    block.sync();
  }
};

/// to = residual + dropout(from), without residual where it is null. One block per row. `to` may be
/// `from`.
template <class To, class From, int Group> struct DropRows {
  using Row = RowDropout<Group>;
  static constexpr int threads = Row::threads;
  To* to;
  const From* from;
  const float* residual;
  Dropout dropout;
  int rows, cols;

  std::int64_t blocks() const { return rows; }
  int shared_bytes() const { return Row::shared_bytes; }

  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    auto* draws = reinterpret_cast<std::uint16_t*>(block.shared());
    const std::int64_t at = block.index() * cols;
    Row::each_group(block, dropout_row(dropout, int(block.index())), cols, draws,
                    [&](int c, const auto& dropped) {
                      Values<Group> value = dropped(load<Group>(from + at + c));
                      if (residual != nullptr) {
                        const Values<Group> other = load<Group>(residual + at + c);
                        for (int i = 0; i < Group; ++i) value[i] += other[i];
                      }
                      store(to + at + c, value);
                    });
  }
};

template <class To, class From, Stream S>
void drop_rows(S& stream, To* to, const From* from, const float* residual, const Dropout& dropout,
               int rows, int cols) {
  constexpr int group = group_of < To >> group_of<From> ? group_of<To> : group_of<From>;
  if (rows_allow_groups(group, cols, to, from, residual))
    stream.launch(DropRows<To, From, group>{to, from, residual, dropout, rows, cols});
  else
    stream.launch(DropRows<To, From, 1>{to, from, residual, dropout, rows, cols});
}

template <Stream S> void compute(const DropoutForward& call, S& stream) {
  drop_rows(stream, call.y, call.x, nullptr, call.dropout, call.rows, call.cols);
}

template <class T, Stream S> void compute(const DropoutAddForward<T>& call, S& stream) {
  drop_rows(stream, call.sum, call.branch, call.residual, call.dropout, call.rows, call.hidden);
}

template <class T, Stream S> void compute(const DropoutAddBackward<T>& call, S& stream) {
  drop_rows(stream, call.d_branch, call.d_sum, nullptr, call.dropout, call.rows, call.hidden);
}

}  // namespace ctrain::cuda
