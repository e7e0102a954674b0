/// \file  Arithmetic of a step, as papers count it.   floor 2: model
#pragma once

#include <ctrain/policy/model_shape.hpp>

#include <cstdint>

namespace ctrain {

/// Floating-point operations of forward and backward (three times forward) over `tokens` rows with
/// `attended` query-key pairs in all sentences: 3 (2 T (4 h^2 + 2 h f) + 4 h A) a block, which with
/// f = 4 h and sentences of s tokens is 3 (24 T h^2 + 4 T s h) (Korthikanti et al., arXiv
/// 2205.05198, without the vocabulary layer). Recomputation is not counted. Embedding, norms and
/// head are left out.
constexpr double training_flops(const ModelShape& m, double tokens, double attended) {
  const double h = m.hidden, f = m.feed_forward;
  return 3.0 * m.layers * (2.0 * tokens * (4.0 * h * h + 2.0 * h * f) + 4.0 * h * attended);
}

// 1.3B, batch 4 padded to 512: 15.46 TFLOP.
static_assert(training_flops(ModelShape{}, 2048, 2048.0 * 512) > 15.45e12 &&
              training_flops(ModelShape{}, 2048, 2048.0 * 512) < 15.47e12);

}  // namespace ctrain
