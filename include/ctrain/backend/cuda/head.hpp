/// \file  Device kernels of the classification head: first rows of sentences, cross-entropy.   floor 5: backend
#pragma once

#include <ctrain/backend/calls.hpp>
#include <ctrain/backend/cuda/block.hpp>
#include <ctrain/backend/cuda/elementwise.hpp>
#include <ctrain/backend/math/softmax.hpp>

namespace ctrain::cuda {

/// One block per sentence copies between its first row in `rows` and its row in `sentences`;
/// `gather` reads rows, or 0 where `rows` has not that one; otherwise rows are written.
struct MoveFirstRows {
  static constexpr int threads = 128;
  float* to;
  const float* from;
  BatchView batch;
  int hidden;
  bool gather;
  RowRange rows;

  std::int64_t blocks() const { return batch.sentences; }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const std::int64_t sentence = block.index() * hidden;
    const std::int32_t first = batch.first_token(int(block.index()));
    const bool held = rows.has(first);
    const std::int64_t row = std::int64_t{first - rows.first} * hidden;
    for (int c = block.thread(); c < hidden; c += threads)
      if (gather)
        to[sentence + c] = held ? from[row + c] : 0.0f;
      else if (held)
        to[row + c] = from[sentence + c];
  }
};

/// One thread per sentence: labels are few.
struct CrossEntropy {
  static constexpr int threads = 64;
  CrossEntropyForward call;

  std::int64_t blocks() const { return ceil_divide(call.batch.sentences, threads); }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const int s = int(block.index()) * threads + block.thread();
    if (s >= call.batch.sentences) return;
    const float* logits = call.logits + std::int64_t{s} * call.labels;
    call.losses[s] = cross_entropy(logits, call.labels, call.batch.labels[s]);
    call.predictions[s] = index_of_largest(logits, call.labels);
  }
};

struct CrossEntropySlope {
  static constexpr int threads = 64;
  CrossEntropyBackward call;

  std::int64_t blocks() const { return ceil_divide(call.batch.sentences, threads); }
  template <Block B> CTRAIN_HOST_DEVICE void operator()(B& block) const {
    const int s = int(block.index()) * threads + block.thread();
    if (s >= call.batch.sentences) return;
    const std::int64_t at = std::int64_t{s} * call.labels;
    cross_entropy_slope(call.d_logits + at, call.logits + at, call.labels, call.batch.labels[s],
                        call.factor());
  }
};

template <Stream S> void compute(const SelectFirstForward& call, S& stream) {
  stream.launch(MoveFirstRows{call.first, call.x, call.batch, call.hidden, true, call.rows});
}

template <Stream S> void compute(const SelectFirstBackward& call, S& stream) {
  fill_zero(stream, call.dx, std::int64_t{call.row_count()} * call.hidden);
  stream.launch(MoveFirstRows{call.dx, call.d_first, call.batch, call.hidden, false, call.rows});
}

template <Stream S> void compute(const CrossEntropyForward& call, S& stream) {
  stream.launch(CrossEntropy{call});
}

template <Stream S> void compute(const CrossEntropyBackward& call, S& stream) {
  stream.launch(CrossEntropySlope{call});
}

}  // namespace ctrain::cuda
