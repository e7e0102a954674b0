/// \file  Softmax, attention scores and cross-entropy over one row.   floor 5: backend
#pragma once

#include <ctrain/backend/math/elementary.hpp>

#include <cstdint>

namespace ctrain {

/// Probability of a score under the row's log of the sum of exponentials.
template <class Real> CTRAIN_HOST_DEVICE inline Real probability(Real score, Real log_sum_exp) {
  return exponential(score - log_sum_exp);
}

/// The gradient of a softmax input: p * (dp - delta), delta the row's sum of p * dp.
template <class Real>
CTRAIN_HOST_DEVICE inline Real softmax_slope(Real probability, Real d_probability, Real delta) {
  return probability * (d_probability - delta);
}

/// Index of the largest value, the first of equals.
CTRAIN_HOST_DEVICE inline std::int32_t index_of_largest(const float* row, int count) {
  std::int32_t best = 0;
  for (int i = 1; i < count; ++i)
    if (row[i] > row[best]) best = i;
  return best;
}

/// log(sum(exp(row))), the largest value taken out first.
CTRAIN_HOST_DEVICE inline float log_sum_exp(const float* row, int count) {
  const float largest = row[index_of_largest(row, count)];
  float sum = 0;
  for (int i = 0; i < count; ++i) sum += exponential(row[i] - largest);
  return largest + natural_logarithm(sum);
}

/// A sentence without a label (-1) has loss 0.
CTRAIN_HOST_DEVICE inline float cross_entropy(const float* logits, int labels, std::int32_t label) {
  return label < 0 ? 0.0f : log_sum_exp(logits, labels) - logits[label];
}

/// d_logits of one sentence; see CrossEntropyBackward.
CTRAIN_HOST_DEVICE inline void cross_entropy_slope(float* d_logits, const float* logits, int labels,
                                                   std::int32_t label, float scale) {
  const float lse = log_sum_exp(logits, labels);
  for (int i = 0; i < labels; ++i) {
    const float onehot = i == label ? 1.0f : 0.0f;
    d_logits[i] = label < 0 ? 0.0f : (probability(logits[i], lse) - onehot) * scale;
  }
}

}  // namespace ctrain
