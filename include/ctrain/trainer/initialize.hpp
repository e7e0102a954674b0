/// \file  New weights: normal, zero or one, the same on every machine and every layout.   floor 6: trainer
#pragma once

#include <ctrain/core/hash.hpp>
#include <ctrain/core/philox.hpp>
#include <ctrain/model/parameters.hpp>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace ctrain {

/// Element `i` of a standard normal sequence that belongs to (seed, name): Box-Muller on the words
/// of one Philox call for every two elements.
inline float normal_draw(std::uint64_t seed, std::uint64_t name_hash, std::uint64_t i) {
  const std::uint64_t pair = i / 2;
  const Words words = philox({std::uint32_t(pair), std::uint32_t(pair >> 32),
                              std::uint32_t(name_hash), std::uint32_t(name_hash >> 32)},
                             std::uint32_t(seed), std::uint32_t(seed >> 32));
  const double u = (double(words.x) + 1.0) / 4294967296.0;  // (0, 1]
  const double angle = 2.0 * std::numbers::pi * (double(words.y) / 4294967296.0);
  const double radius = std::sqrt(-2.0 * std::log(u));
  return float(radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle)));
}

/// Fills elements [first, first + count) of a tensor as Hugging Face's _init_weights does: N(0,
/// range), zeros, or ones; the padding row of the word embedding is zero. `name` is the full name,
/// so that every block differs. An element's value does not depend on which others are drawn.
inline void initialize(const Parameter& p, std::string_view name, std::uint64_t seed, float range,
                       std::int64_t first, std::int64_t count, float* values) {
  if (p.init != Init::normal) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = p.init == Init::ones ? 1.0f : 0.0f;
    return;
  }
  Hash hash;
  hash.add_bytes(name.data(), name.size());
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i)
    values[i] = range * normal_draw(seed, hash.value, std::uint64_t(first + i));
  if (name == "bert.embeddings.word_embeddings.weight")
    for (std::int64_t c = first; c < p.cols && c < first + count; ++c) values[c - first] = 0.0f;
}

}  // namespace ctrain
