/// \file  What a host sees of the memory that a backend computes in.   floor 6: trainer
#pragma once

#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/batch.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/memory/plan.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/mman.h>

namespace ctrain {

/// Values for a host to read: the arena's own, or a copy of them.
template <class T> class HostValues {
 public:
  explicit HostValues(std::span<const T> values) : values_(values) {}
  explicit HostValues(std::vector<T> copy) : copy_(std::move(copy)), values_(copy_) {}
  HostValues(HostValues&&) = default;  // a moved vector keeps its address

  const T* data() const { return values_.data(); }
  std::size_t size() const { return values_.size(); }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size(); }
  const T& operator[](std::size_t i) const { return values_[i]; }

 private:
  std::vector<T> copy_;
  std::span<const T> values_;
};

/// Where B computes in host memory, all of this is the arena itself and nothing is ever copied.
/// Otherwise B offers read(host, device, bytes) and write(device, host, bytes), and the first
/// `mirrored` bytes of the arena (parameters, optimizer state, batch) have a place on the host, of
/// which the system backs what is touched.
template <class B> class HostView {
  using Space = ArenaOf<B>;
  static constexpr bool is_arena = std::is_same_v<Space, Arena>;

 public:
  HostView(B& backend, Space& arena, bytes mirrored) : backend_(backend), arena_(arena) {
    if constexpr (is_arena) return;
    void* const memory = mmap(nullptr, std::size_t(mirrored), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
      throw Error("memory", std::to_string(mirrored) + " bytes of host memory cannot be had",
                  "Free memory on the host");
    memory_ = {static_cast<std::byte*>(memory), {mirrored}};
  }

  /// The host's address of something in the mirrored part.
  template <class T> T* at(T* address) const {
    if constexpr (is_arena)
      return address;
    else
      return reinterpret_cast<T*>(mirror_of(reinterpret_cast<const std::byte*>(address)));
  }
  BatchView batch_at(BatchView batch) const {
    batch.token_ids = at(batch.token_ids), batch.token_types = at(batch.token_types);
    batch.positions = at(batch.positions), batch.row_keys = at(batch.row_keys);
    batch.first_row = at(batch.first_row), batch.lengths = at(batch.lengths);
    batch.labels = at(batch.labels);
    return batch;
  }
  /// Host to arena and back, for a stretch of the mirrored part.
  void push(const Region& r) {
    if constexpr (!is_arena)
      backend_.write(arena_.base() + r.offset, memory_.get() + r.offset, r.size);
  }
  void pull(const Region& r) {
    if constexpr (!is_arena)
      backend_.read(memory_.get() + r.offset, arena_.base() + r.offset, r.size);
  }
  /// `count` values from anywhere in the arena.
  template <class T> HostValues<T> read(const T* from, std::int64_t count) {
    if constexpr (is_arena) {
      return HostValues<T>(std::span<const T>(from, std::size_t(count)));
    } else {
      std::vector<T> copy(static_cast<std::size_t>(count));
      backend_.read(copy.data(), from, count * bytes(sizeof(T)));
      return HostValues<T>(std::move(copy));
    }
  }

 private:
  struct Unmap {
    bytes size = 0;
    void operator()(std::byte* memory) const { munmap(memory, std::size_t(size)); }
  };
  std::byte* mirror_of(const std::byte* address) const {
    return memory_.get() + (address - arena_.base());
  }

  B& backend_;
  Space& arena_;
  std::unique_ptr<std::byte, Unmap> memory_;
};

}  // namespace ctrain
