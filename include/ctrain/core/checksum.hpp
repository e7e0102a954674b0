/// \file  A checksum that keeps up with memory: what was written is what is read.   floor 0: core
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ctrain {

/// 64 bits over `size` bytes: 32 running values, each of which takes every 32nd word by FNV-1a's
/// exclusive-or and product, then the size and those by the same rule. Every step is one to one, so
/// a change of any one word changes the result.
inline std::uint64_t checksum(const void* data, std::size_t size) {
  constexpr std::size_t lanes = 32;
  constexpr std::uint64_t prime = 0x100000001b3u;
  std::uint64_t running[lanes], words[lanes];
  for (std::size_t i = 0; i < lanes; ++i) running[i] = 0xcbf29ce484222325u + i;
  std::uint64_t all = (0xcbf29ce484222325u ^ size) * prime;
  const auto* from = static_cast<const unsigned char*>(data);
  for (; size > 0;) {
    const std::size_t now = size < sizeof words ? size : sizeof words;
    if (now < sizeof words) std::memset(words, 0, sizeof words);
    std::memcpy(words, from, now);
    for (std::size_t i = 0; i < lanes; ++i) running[i] = (running[i] ^ words[i]) * prime;
    from += now;
    size -= now;
  }
  for (const std::uint64_t value : running) all = (all ^ value) * prime;
  return all;
}

}  // namespace ctrain
