/// \file  What a kernel sees of its thread block, and how it reads and writes 16 bytes at once.   floor 5: backend
#pragma once

#include <ctrain/core/config.hpp>
#include <ctrain/core/floating.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace ctrain::cuda {

// A kernel is an aggregate: its arguments, `threads` of a block, blocks(), perhaps shared_bytes(),
// and a call operator that is one thread's work. The operator is a template over the block, so the
// same source runs on a device (launch.cuh) and, thread by thread, in tests (tests/emulation).
// Threads are in one dimension; a kernel decodes blocks that mean more.

inline constexpr int warp_size = 32;

/// One thread's view of its block.
template <class B>
concept Block = requires(B& block, float value, double wide, bool vote) {
  { block.thread() } -> std::same_as<int>;
  { block.index() } -> std::same_as<std::int64_t>;         // of the block in the grid
  { block.shared() } -> std::same_as<std::byte*>;          // 16-byte aligned, shared_bytes() long
  block.sync();                                            // every thread of the block comes here
  { block.shuffle_xor(value, 1) } -> std::same_as<float>;  // every thread of the warp comes here
  { block.ballot(vote) } -> std::same_as<std::uint32_t>;   // likewise; bit i is lane i's vote
};

template <class K>
concept Kernel = requires(const K& kernel) {
  { K::threads } -> std::convertible_to<int>;
  { kernel.blocks() } -> std::convertible_to<std::int64_t>;
};

template <Kernel K> constexpr int shared_bytes_of(const K& kernel) {
  if constexpr (requires { kernel.shared_bytes(); })
    return kernel.shared_bytes();
  else
    return 0;
}

/// What launches kernels one after another, and has memory that lasts for one call.
template <class S>
concept Stream = requires(S& stream, std::int64_t count) {
  { stream.template scratch<float>(count) } -> std::same_as<float*>;
};

template <class T> CTRAIN_HOST_DEVICE constexpr T ceil_divide(T a, T b) {
  return (a + b - 1) / b;
}

/// A number that is part of a type.
template <int I> struct Index {
  CTRAIN_HOST_DEVICE constexpr operator int() const { return I; }
};

/// body(0) ... body(N - 1), each number an Index: arrays indexed by it stay in registers even where
/// a compiler would rather keep the loop.
template <int N, class Body> CTRAIN_HOST_DEVICE CTRAIN_INLINE void unrolled(const Body& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (body(Index<I>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

// groups of neighbouring elements -----------------------------------------------------------------

/// N neighbours, widened. N is 1, or what 16 bytes hold of the narrowest type at hand.
template <int N> struct Values {
  float at[N];

  CTRAIN_HOST_DEVICE float& operator[](int i) { return at[i]; }
  CTRAIN_HOST_DEVICE float operator[](int i) const { return at[i]; }
};

/// Elements that a thread takes at once where one of the types is T.
template <class T> inline constexpr int group_of = 16 / int(sizeof(T));

/// 16 bytes in registers.
#ifdef __CUDACC__
using Bits16 = uint4;
#else
struct alignas(16) Bits16 {
  std::uint32_t x, y, z, w;
};
#endif

// From and to addresses that are multiples of 16. A device gets one access: from a plain copy of
// what was just computed it makes several narrow ones.
CTRAIN_HOST_DEVICE CTRAIN_INLINE Bits16 load_16_bytes(const void* from) {
#ifdef __CUDA_ARCH__
  return *static_cast<const Bits16*>(from);
#else
  Bits16 bits;
  __builtin_memcpy(&bits, __builtin_assume_aligned(from, 16), 16);
  return bits;
#endif
}
CTRAIN_HOST_DEVICE CTRAIN_INLINE void store_16_bytes(void* to, const Bits16& bits) {
#ifdef __CUDA_ARCH__
  *static_cast<Bits16*>(to) = bits;
#else
  __builtin_memcpy(__builtin_assume_aligned(to, 16), &bits, 16);
#endif
}
/// The same where memory is the device's, never shared: one access whatever came before.
CTRAIN_HOST_DEVICE CTRAIN_INLINE void store_16_bytes_globally(void* to, const Bits16& bits) {
#ifdef __CUDA_ARCH__
  __stwb(static_cast<Bits16*>(to), bits);
#else
  store_16_bytes(to, bits);
#endif
}
CTRAIN_HOST_DEVICE CTRAIN_INLINE void copy_16_bytes(void* to, const void* from) {
  store_16_bytes(to, load_16_bytes(from));
}

/// Neighbours as they stand in memory, made of whole words: of narrower parts a device makes
/// narrower accesses.
template <class T> CTRAIN_HOST_DEVICE CTRAIN_INLINE Bits16 bits_of(const float* values) {
  std::uint32_t word[4];
  for (int i = 0; i < 4; ++i)
    if constexpr (sizeof(T) == 4)
      word[i] = bits_as<std::uint32_t>(values[i]);
    else
      word[i] = T::narrow_two(values[2 * i], values[2 * i + 1]);
  return {word[0], word[1], word[2], word[3]};
}

template <int N, class T> CTRAIN_HOST_DEVICE CTRAIN_INLINE Values<N> load(const T* from) {
  Values<N> result;
  if constexpr (N == 1) {
    result[0] = float(*from);
  } else {
    constexpr int group = group_of<T>;
    static_assert(N % group == 0, "a group is a multiple of 16 bytes");
    alignas(16) T part[group];
    for (int start = 0; start < N; start += group) {
      const Bits16 bits = load_16_bytes(from + start);
      __builtin_memcpy(static_cast<void*>(part), &bits, 16);
      for (int i = 0; i < group; ++i) result[start + i] = float(part[i]);
    }
  }
  return result;
}

template <int N, class T>
CTRAIN_HOST_DEVICE CTRAIN_INLINE void store(T* to, const Values<N>& values) {
  if constexpr (N == 1) {
    *to = T(values[0]);
  } else {
    constexpr int group = group_of<T>;
    static_assert(N % group == 0, "a group is a multiple of 16 bytes");
    for (int start = 0; start < N; start += group)
      store_16_bytes(to + start, bits_of<T>(values.at + start));
  }
}

/// True iff rows of `cols` elements can be walked in groups of `group` from these addresses.
template <class... T> bool rows_allow_groups(int group, int cols, const T*... from) {
  return cols % group == 0 && ((reinterpret_cast<std::uintptr_t>(from) % 16 == 0) && ...);
}

// sums in a fixed tree ----------------------------------------------------------------------------

template <Block B> CTRAIN_HOST_DEVICE CTRAIN_INLINE float warp_sum(B& block, float value) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) value += block.shuffle_xor(value, mask);
  return value;
}

/// The sum over a block's threads, in all of them. `shared` has a float for each warp and is free
/// again afterwards.
template <int Threads, Block B>
CTRAIN_HOST_DEVICE CTRAIN_INLINE float block_sum(B& block, float value, float* shared) {
  value = warp_sum(block, value);
  if (block.thread() % warp_size == 0) shared[block.thread() / warp_size] = value;
  block.sync();
  float sum = 0;
  for (int warp = 0; warp < Threads / warp_size; ++warp) sum += shared[warp];
  block.sync();
  return sum;
}

}  // namespace ctrain::cuda
