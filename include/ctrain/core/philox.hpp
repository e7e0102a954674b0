/// \file  Random bits that depend on a position, never on an order of calls.   floor 0: core
#pragma once

#include <ctrain/core/config.hpp>

#include <cstdint>

namespace ctrain {

/// Four 32-bit words.
struct Words {
  std::uint32_t x = 0, y = 0, z = 0, w = 0;
  friend constexpr bool operator==(const Words&, const Words&) = default;
};

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four
/// random words from a 128-bit counter and a 64-bit key.
CTRAIN_HOST_DEVICE constexpr Words philox(Words counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter.x;
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * counter.z;
    counter = {std::uint32_t(b >> 32) ^ counter.y ^ key0, std::uint32_t(b),
               std::uint32_t(a >> 32) ^ counter.w ^ key1, std::uint32_t(a)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

/// Where in a model a dropout stands. Part of the random counter, so the order is frozen.
enum class DropoutSite : std::uint8_t {
  embedding,
  attention_probability,
  attention_output,
  feed_forward_output,
  pooled
};

/// What a dropout's bits depend on besides token and element: nothing about ranks, threads, packing
/// or recomputation. `layer_site` is layer * 8 + site.
struct DropoutKey {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t layer_site = 0;
};

/// Probability as the threshold of a 16-bit draw: dropped iff draw < threshold.
CTRAIN_HOST_DEVICE constexpr std::uint32_t dropout_threshold(float probability) {
  return std::uint32_t(double(probability) * 65536.0 + 0.5);
}

/// 1 / (1 - p) for the p that the threshold really has, so that expectations are exact.
CTRAIN_HOST_DEVICE constexpr float dropout_scale(std::uint32_t threshold) {
  return float(65536.0 / (65536.0 - double(threshold)));
}

/// The 16 random bits of one element. `token` is the row's key (BatchView::row_keys), `element` the
/// column (for attention: head * 4096 + key position). Elements of a group of 128 share 16 Philox
/// calls, laid out so that 16 neighbours take the same half of the same word of 16 neighbouring
/// calls: a vector unit makes 16 of them in one go.
CTRAIN_HOST_DEVICE constexpr std::uint32_t dropout_draw(DropoutKey key, std::uint32_t token,
                                                        std::uint32_t element) {
  const std::uint32_t inside = element & 127u;
  const Words words =
      philox({(element >> 7) * 16u + (inside & 15u), token, key.layer_site, key.step},
             std::uint32_t(key.seed), std::uint32_t(key.seed >> 32));
  const std::uint32_t half = inside >> 4;  // 0..7: words x, y, z, w, low half first
  const std::uint32_t word =
      half < 4 ? (half < 2 ? words.x : words.y) : (half < 6 ? words.z : words.w);
  return half & 1u ? word >> 16 : word & 0xffffu;
}

// Known answers of the authors' Random123 distribution (kat_vectors, philox4x32 10).
static_assert(philox({0, 0, 0, 0}, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffff, 0xffffffff) ==
              Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});

}  // namespace ctrain
