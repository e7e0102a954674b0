/// \file  What each rank tells all others once a step, and what a step comes to.   floor 6: trainer
#pragma once

#include <ctrain/backend/math/sum_of_squares.hpp>
#include <ctrain/core/config.hpp>
#include <ctrain/memory/split.hpp>

#include <cstdint>

namespace ctrain {

/// Sums over the sentences of a step or of an evaluation batch.
struct StepResult {
  double loss_sum = 0;
  std::int64_t sentences = 0;  // with a label
  std::int64_t correct = 0;
  std::int64_t tokens = 0;    // real ones
  std::int64_t rows = 0;      // computed ones
  std::int64_t attended = 0;  // query-key pairs inside sentences
  std::int64_t micro_batches = 0;
  double gradient_norm = 0;  // of the mean gradient, before clipping
  bool skipped = false;      // a gradient overflowed: nothing changed but the loss scale

  double loss() const { return sentences > 0 ? loss_sum / double(sentences) : 0; }
  double accuracy() const { return sentences > 0 ? double(correct) / double(sentences) : 0; }

  CTRAIN_HOST_DEVICE StepResult& operator+=(const StepResult& other) {
    loss_sum += other.loss_sum;
    sentences += other.sentences, correct += other.correct, tokens += other.tokens;
    rows += other.rows, attended += other.attended, micro_batches += other.micro_batches;
    return *this;
  }
};

/// One rank's part of a step: squares of the gradients that it alone counts, and the sums over its
/// micro-batches.
struct Record {
  ExactSum squares;
  StepResult result;
};

static_assert(sizeof(Record) <= Split::record);

}  // namespace ctrain
