// Kernels of the embedding and of the head against the reference.
#pragma once

#include "emulated.hpp"

namespace emulation {

using namespace ctrain;

/// Bits equal the reference's: sums go in row order in both.
inline void embedding_agrees() {
  struct Case {
    int sentences, longest, tail, hidden, vocabulary;
    bool padded;
  };
  for (const Case& at : {Case{1, 1, 0, 1, 3, false}, Case{5, 9, 3, 8, 7, false},
                         Case{4, 6, 2, 13, 30, true}, Case{40, 10, 5, 520, 11, false}}) {
    oracle::Random random(6);
    oracle::OwnedBatch batch =
        oracle::random_batch(random, at.sentences, at.longest, at.tail, at.padded, at.vocabulary);
    const int hidden = at.hidden, types = 2, positions = at.longest + 2;
    const auto rows = std::size_t(batch.rows), width = std::size_t(hidden);
    Buffer<float> word(random.values<float>(std::size_t(at.vocabulary) * width)),
        position(random.values<float>(std::size_t(positions) * width)),
        type(random.values<float>(std::size_t(types) * width)),
        dx(random.values<float>(rows * width));
    for (const bool accumulate : {false, true}) {
      agrees(
          [&](auto& backend) {
            Buffer<float> x(rows * width), d_word(word.values()), d_position(position.values()),
                d_type(type.values());
            backend.run(EmbedForward{x.data(), word.data(), position.data(), type.data(),
                                     batch.view(), hidden});
            backend.run(EmbedBackward{d_word.data(), d_position.data(), d_type.data(), dx.data(),
                                      batch.view(), at.vocabulary, positions, types, hidden,
                                      accumulate});
            return std::vector<Floats>{x.floats(), d_word.floats(), d_position.floats(),
                                       d_type.floats()};
          },
          {0, 0, 0, 0});
      // What one of several ranks has: some words, and no places.
      const int first = at.vocabulary / 3, some = at.vocabulary - first - 1;
      agrees(
          [&](auto& backend) {
            Buffer<float> x(rows * width), d_word(word.values()), d_position(position.values()),
                d_type(type.values());
            backend.run(EmbedForward{
                x.data(), word.data(), nullptr, nullptr, batch.view(), hidden, {first, some}});
            backend.run(EmbedBackward{d_word.data(), d_position.data(), d_type.data(), dx.data(),
                                      batch.view(), some, positions, types, hidden, accumulate,
                                      first});
            return std::vector<Floats>{x.floats(), d_word.floats()};
          },
          {0, 0});
    }
  }
}

inline void head_agrees() {
  for (const auto& [sentences, hidden, labels] :
       {std::tuple{1, 1, 2}, {5, 12, 3}, {70, 7, 2}, {3, 300, 9}}) {
    oracle::Random random(7);
    oracle::OwnedBatch batch = oracle::random_batch(random, sentences, 4, 3, false, 10, labels);
    const auto rows = std::size_t(batch.rows), width = std::size_t(hidden),
               count = std::size_t(sentences);
    Buffer<float> x(random.values<float>(rows * width)), first(random.values<float>(count * width)),
        logits(random.values<float>(count * std::size_t(labels), 3));
    const RowRange half{batch.rows / 2, batch.rows - batch.rows / 2};
    agrees(
        [&](auto& backend) {
          Buffer<float> y(count * width), dx(rows * width), some(count * width),
              d_some(std::size_t(half.count) * width), losses(count),
              d_logits(count * std::size_t(labels));
          Buffer<std::int32_t> predictions(std::vector<std::int32_t>(count, -7));
          const float scale = 0.25f;
          backend.run(SelectFirstForward{y.data(), x.data(), batch.view(), hidden});
          backend.run(SelectFirstBackward{dx.data(), first.data(), batch.view(), hidden});
          backend.run(SelectFirstForward{some.data(), x.data(), batch.view(), hidden, half});
          backend.run(SelectFirstBackward{d_some.data(), first.data(), batch.view(), hidden, half});
          backend.run(CrossEntropyForward{losses.data(), predictions.data(), logits.data(),
                                          batch.view(), labels});
          backend.run(
              CrossEntropyBackward{d_logits.data(), logits.data(), batch.view(), labels, &scale});
          return std::vector<Floats>{y.floats(),           dx.floats(),       losses.floats(),
                                     predictions.floats(), d_logits.floats(), some.floats(),
                                     d_some.floats()};
        },
        {0, 0, 1e-6, 0, 1e-6, 0, 0});
  }
}

}  // namespace emulation
