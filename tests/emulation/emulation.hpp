// Kernels of backend/cuda on a host: each thread of a block is a fiber, barriers and shuffles are
// switches between them. For small shapes. It notices shuffles and barriers that not all threads
// reach; threads run forwards or backwards, so that a result that depends on their order differs.
#pragma once

#include <ctrain/backend/cuda/block.hpp>

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>

#include <cctype>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <cxxabi.h>

namespace emulation {

namespace context = boost::context;

/// Where a thread stopped.
enum class Stop { exchange, barrier, end };

struct Thread {
  context::fiber fiber;
  context::fiber scheduler;
  Stop stop = Stop::end;
  float slots[2] = {};  // two: a lane may offer its next value before the last one is read
  int offered = 0;
};

struct SharedMemory {
  std::byte* data = nullptr;
  std::vector<Thread>* threads = nullptr;
  std::int64_t block = 0;
};

/// Models cuda::Block for one thread.
class Block {
 public:
  Block(SharedMemory& memory, int thread) : memory_(memory), thread_(thread) {}

  int thread() const { return thread_; }
  std::int64_t index() const { return memory_.block; }
  std::byte* shared() const { return memory_.data; }
  [[gnu::noinline]] void sync() { stop(Stop::barrier); }

  [[gnu::noinline]] float shuffle_xor(float value, int mask) {
    const int slot = offer(value);
    return (*memory_.threads)[std::size_t(thread_ ^ mask)].slots[slot];
  }
  [[gnu::noinline]] std::uint32_t ballot(bool vote) {
    const int slot = offer(vote ? 1.0f : 0.0f);
    std::uint32_t votes = 0;
    const int warp = thread_ / ctrain::cuda::warp_size * ctrain::cuda::warp_size;
    for (int lane = 0; lane < ctrain::cuda::warp_size; ++lane)
      if ((*memory_.threads)[std::size_t(warp + lane)].slots[slot] != 0) votes |= 1u << lane;
    return votes;
  }

 private:
  Thread& self() const { return (*memory_.threads)[std::size_t(thread_)]; }
  int offer(float value) {
    const int slot = self().offered++ & 1;
    self().slots[slot] = value;
    stop(Stop::exchange);
    return slot;
  }
  void stop(Stop why) {
    self().stop = why;
    self().scheduler = std::move(self().scheduler).resume();
  }

  SharedMemory& memory_;
  int thread_;
};

static_assert(ctrain::cuda::Block<Block>);

/// Runs every block of a kernel, one after another. One class for all kernels, of which a compiler
/// has enough to do.
class Grid {
 public:
  template <ctrain::cuda::Kernel K>
  Grid(const K& kernel, bool backwards)
      : name_(typeid(K).name()),
        blocks_(kernel.blocks()),
        shared_(std::size_t(ctrain::cuda::shared_bytes_of(kernel))),
        work_([&kernel](Block& block) { kernel(block); }),
        backwards_(backwards),
        threads_(std::size_t(K::threads)) {
    static_assert(K::threads % warp == 0, "blocks are whole warps");
  }

  void run() {
    for (std::int64_t i = 0; i < blocks_; ++i) run_block(backwards_ ? blocks_ - 1 - i : i);
  }

 private:
  static constexpr int warp = ctrain::cuda::warp_size;

  void run_block(std::int64_t block) {
    // Exactly as long as asked for, full of NaN, between guards.
    std::vector<std::byte> bytes(shared_ + 2 * guard + 16, std::byte{0xff});
    const auto start = reinterpret_cast<std::uintptr_t>(bytes.data() + guard);
    memory_ = {bytes.data() + guard + (16 - start % 16) % 16, &threads_, block};
    for (int t = 0; t < int(threads_.size()); ++t) begin(t);
    for (bool ended = false; !ended;) ended = run_to_barrier();
    for (std::byte* b = bytes.data(); b < memory_.data; ++b) check_guard(*b);
    for (std::byte* b = memory_.data + shared_; b < bytes.data() + bytes.size(); ++b)
      check_guard(*b);
  }

  void begin(int thread) {
    threads_[std::size_t(thread)].fiber =
        context::fiber(std::allocator_arg, stacks_, [this, thread](context::fiber&& scheduler) {
          Thread& self = threads_[std::size_t(thread)];
          self.scheduler = std::move(scheduler);
          Block block(memory_, thread);
          work_(block);
          self.stop = Stop::end;
          return std::move(self.scheduler);
        });
    threads_[std::size_t(thread)].stop = Stop::barrier;
  }

  /// All warps up to the next barrier; true iff they ended instead.
  bool run_to_barrier() {
    const int warps = int(threads_.size()) / warp;
    for (int i = 0; i < warps; ++i) run_warp(backwards_ ? warps - 1 - i : i);
    for (const Thread& thread : threads_)
      if (thread.stop != threads_[0].stop)
        fail("a barrier that not all threads of the block reach");
    return threads_[0].stop == Stop::end;
  }

  void run_warp(int index) {
    Thread* lanes = threads_.data() + index * warp;
    do {
      for (int i = 0; i < warp; ++i) {
        Thread& lane = lanes[backwards_ ? warp - 1 - i : i];
        lane.fiber = std::move(lane.fiber).resume();
      }
      for (int i = 0; i < warp; ++i)
        if ((lanes[i].stop == Stop::exchange) != (lanes[0].stop == Stop::exchange))
          fail("a shuffle that not all threads of the warp reach");
    } while (lanes[0].stop == Stop::exchange);
  }

  void check_guard(std::byte b) const {
    if (b != std::byte{0xff}) fail("a write outside of shared memory");
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw std::logic_error("emulated kernel " + std::string(name_) + ": " + what);
  }

  static constexpr std::size_t guard = 256;

  const char* name_;
  std::int64_t blocks_;
  std::size_t shared_;
  std::function<void(Block&)> work_;
  bool backwards_;
  context::pooled_fixedsize_stack stacks_{64 * 1024};
  std::vector<Thread> threads_;
  SharedMemory memory_;
};

/// Adds the names that a kernel's type is made of: its template, and what that is given.
inline void add_names_of(const std::type_info& kernel, std::set<std::string>& names) {
  int status = 0;
  char* text = abi::__cxa_demangle(kernel.name(), nullptr, nullptr, &status);
  std::string name;
  for (const char* c = text;; ++c) {
    if (std::isalnum(static_cast<unsigned char>(*c)) || *c == '_') {
      name += *c;
      continue;
    }
    if (!name.empty()) names.insert(std::exchange(name, {}));
    if (*c == '\0') break;
  }
  std::free(text);
}

/// Models cuda::Stream, and remembers of what the kernels that it ran are made.
class Stream {
 public:
  explicit Stream(bool backwards = false) : backwards_(backwards) {}

  template <class T> T* scratch(std::int64_t count) {
    memory_.assign(std::size_t(count) * sizeof(T) / 8 + 4, ~std::uint64_t{0});
    return reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(memory_.data()) + 15) / 16 * 16);
  }
  template <ctrain::cuda::Kernel K> void launch(const K& kernel) {
    Grid(kernel, backwards_).run();
    add_names_of(typeid(K), names);
  }

  std::set<std::string> names;

 private:
  bool backwards_;
  std::vector<std::uint64_t> memory_;
};

}  // namespace emulation
