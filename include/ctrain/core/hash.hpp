/// \file  FNV-1a, 64 bits: fingerprints of policies, schedules and weights.   floor 0: core
#pragma once

#include <cstddef>
#include <cstdint>

namespace ctrain {

/// Order-dependent fingerprint of a sequence of values (FNV-1a over their little-endian bytes).
struct Hash {
  std::uint64_t value = 0xcbf29ce484222325u;

  constexpr Hash& add_byte(std::uint8_t byte) {
    value = (value ^ byte) * 0x100000001b3u;
    return *this;
  }
  constexpr Hash& add(std::uint64_t number) {
    for (int i = 0; i < 8; ++i) add_byte(std::uint8_t(number >> (8 * i)));
    return *this;
  }
  Hash& add_bytes(const void* data, std::size_t size) {
    const auto* byte = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < size; ++i) add_byte(byte[i]);
    return *this;
  }
};

}  // namespace ctrain
