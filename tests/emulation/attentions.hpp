// Kernels of attention against the reference.
#pragma once

#include "emulated.hpp"

namespace emulation {

using namespace ctrain;
using oracle::share;

struct AttentionCase {
  int heads, size, sentences, longest;
  bool padded = false;
  float dropout = 0;
  int length = 0;  // the plan's bound; 0: the longest sentence
  int shift = 0;
  int first_head = 0;
};

template <class T> void attention_agrees() {
  for (const AttentionCase& at : {AttentionCase{1, 8, 1, 1},
                                  {2, 5, 4, 6, false, 0.3f},
                                  {2, 64, 3, 35, false, 0.1f},
                                  {3, 16, 3, 9, true, 0.2f, 64},
                                  {1, 64, 2, 70, true, 0.1f},
                                  {1, 64, 2, 70, false, 0, 20},
                                  {2, 128, 2, 33, false, 0.1f},
                                  {2, 256, 2, 40, false, 0.1f},
                                  {1, 256, 2, 5, true, 0, 0, 1},
                                  {1, 100, 2, 12, false, 0.5f},
                                  {2, 64, 3, 35, false, 0.3f, 0, 0, 6}}) {
    oracle::Random random(10);
    oracle::OwnedBatch batch = oracle::random_batch(random, at.sentences, at.longest, 5, at.padded);
    const int hidden = at.heads * at.size, length = at.length > 0 ? at.length : at.longest;
    const auto rows = std::size_t(batch.rows), width = std::size_t(hidden);
    const Dropout dropout = oracle::dropout(batch, at.dropout);
    Buffer<T> qkv(random.values<T>(rows * 3 * width), at.shift),
        d_context(random.values<T>(rows * width), at.shift);
    agrees(
        [&](auto& backend) {
          const auto square = std::size_t(2 * at.longest * at.longest);
          Buffer<float> lse(rows * std::size_t(at.heads)), workspace(square);
          Buffer<T> context(rows * width, at.shift), d_qkv(rows * 3 * width, at.shift);
          backend.run(AttentionForward<T>{context.data(), lse.data(), qkv.data(), batch.view(),
                                          dropout, workspace.data(), at.heads, at.size, length, 1,
                                          at.first_head});
          backend.run(AttentionBackward<T>{
              d_qkv.data(), d_context.data(), context.data(), qkv.data(), lse.data(), batch.view(),
              dropout, workspace.data(), at.heads, at.size, length, 1, at.first_head});
          return std::vector<Floats>{context.floats(), lse.floats(), d_qkv.floats()};
        },
        // 16 bits: backward sums over the rounded context, the reference over exact probabilities
        {share<T>, 4e-6, Half<T> ? 4 * share<T> : share<T>});
  }
}

}  // namespace emulation
