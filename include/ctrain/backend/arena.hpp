/// \file  The one allocation of a host step: taken and touched at start, given back at the end.   floor 5: backend
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/core/units.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include <sys/mman.h>

namespace ctrain {

/// `size` bytes of zeroed memory, on huge pages where the system has them, all of it backed by
/// pages when the constructor returns, and locked there where RLIMIT_MEMLOCK allows: a step never
/// faults. Threads touch what a static loop over the whole would give them, each on its own NUMA
/// node. Throws Error if the system will not give the memory.
class Arena {
 public:
  explicit Arena(bytes size) : size_(size), mapped_(round_up(size, huge_page)) {
    void* memory = mmap(nullptr, std::size_t(mapped_ + huge_page), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
      throw Error("memory",
                  "the plan's arena of " + std::to_string(size) + " bytes cannot be had (" +
                      std::strerror(errno) + ")",
                  "Free memory, or set a smaller batch in the policy");
    whole_ = memory;
    base_ =
        reinterpret_cast<std::byte*>(round_up(reinterpret_cast<std::intptr_t>(memory), huge_page));
    madvise(base_, std::size_t(mapped_), MADV_HUGEPAGE);
#pragma omp parallel for schedule(static)
    for (bytes at = 0; at < mapped_; at += huge_page) touch(at);
    mlock(base_, std::size_t(mapped_));  // where it may not be, pages can be reclaimed
  }
  Arena(Arena&& other) noexcept
      : whole_(std::exchange(other.whole_, nullptr)),
        base_(other.base_),
        size_(other.size_),
        mapped_(other.mapped_) {}
  Arena& operator=(Arena&&) = delete;
  ~Arena() {
    if (whole_ != nullptr) munmap(whole_, std::size_t(mapped_ + huge_page));
  }

  /// The address of `count` bytes at `offset`; keeps the high-water mark.
  std::byte* at(bytes offset, bytes count) {
    if (offset + count > high_water_) high_water_ = offset + count;
    return base_ + offset;
  }
  std::byte* base() const {
    return base_;
  }
  bytes size() const {
    return size_;
  }
  /// End of the highest range that was ever asked for.
  bytes high_water() const {
    return high_water_;
  }

 private:
  static constexpr bytes huge_page = 2 * MiB;

  void touch(bytes from) const {
    for (bytes at = from; at < from + huge_page; at += 4 * KiB) base_[at] = std::byte{0};
  }

  void* whole_ = nullptr;
  std::byte* base_ = nullptr;
  bytes size_ = 0, mapped_ = 0, high_water_ = 0;
};

/// The arena of a backend: host memory, unless the backend names another.
template <class B> struct ArenaChoice { using type = Arena; };
template <class B>
  requires requires {
    typename B::Arena;
  }
struct ArenaChoice<B> {
  using type = typename B::Arena;
};

template <class B> using ArenaOf = typename ArenaChoice<B>::type;

}  // namespace ctrain
