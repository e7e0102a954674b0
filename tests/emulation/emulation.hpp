// Kernels of backend/cuda on a host: each thread of a block is a fiber, barriers and shuffles are
// switches between them. For small shapes. It notices shuffles and barriers that not all threads
// reach; threads run forwards or backwards, so that a result that depends on their order differs.
#pragma once

#include <ctrain/backend/cuda/block.hpp>

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>

#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <typeinfo>
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
  void sync() { stop(Stop::barrier); }

  float shuffle_xor(float value, int mask) {
    const int slot = offer(value);
    return (*memory_.threads)[std::size_t(thread_ ^ mask)].slots[slot];
  }
  std::uint32_t ballot(bool vote) {
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

/// Runs every block of a kernel, one after another.
template <ctrain::cuda::Kernel K> class Grid {
 public:
  Grid(const K& kernel, bool backwards) : kernel_(kernel), backwards_(backwards) {}

  void run() {
    for (std::int64_t i = 0, blocks = kernel_.blocks(); i < blocks; ++i)
      run_block(backwards_ ? blocks - 1 - i : i);
  }

 private:
  static constexpr int warp = ctrain::cuda::warp_size;
  static_assert(K::threads % warp == 0, "blocks are whole warps");

  void run_block(std::int64_t block) {
    // Exactly as long as asked for, full of NaN, between guards.
    const std::size_t size = std::size_t(ctrain::cuda::shared_bytes_of(kernel_));
    std::vector<std::byte> bytes(size + 2 * guard + 16, std::byte{0xff});
    const auto start = reinterpret_cast<std::uintptr_t>(bytes.data() + guard);
    memory_ = {bytes.data() + guard + (16 - start % 16) % 16, &threads_, block};
    for (int t = 0; t < K::threads; ++t) begin(t);
    for (bool ended = false; !ended;) ended = run_to_barrier();
    for (std::byte* b = bytes.data(); b < memory_.data; ++b) check_guard(*b);
    for (std::byte* b = memory_.data + size; b < bytes.data() + bytes.size(); ++b) check_guard(*b);
  }

  void begin(int thread) {
    threads_[std::size_t(thread)].fiber =
        context::fiber(std::allocator_arg, stacks_, [this, thread](context::fiber&& scheduler) {
          Thread& self = threads_[std::size_t(thread)];
          self.scheduler = std::move(scheduler);
          Block block(memory_, thread);
          kernel_(block);
          self.stop = Stop::end;
          return std::move(self.scheduler);
        });
    threads_[std::size_t(thread)].stop = Stop::barrier;
  }

  /// All warps up to the next barrier; true iff they ended instead.
  bool run_to_barrier() {
    for (int i = 0; i < K::threads / warp; ++i)
      run_warp(backwards_ ? K::threads / warp - 1 - i : i);
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

  static void check_guard(std::byte b) {
    if (b != std::byte{0xff}) fail("a write outside of shared memory");
  }
  [[noreturn]] static void fail(const std::string& what) {
    throw std::logic_error("emulated kernel " + std::string(typeid(K).name()) + ": " + what);
  }

  static constexpr std::size_t guard = 256;

  const K& kernel_;
  bool backwards_;
  context::pooled_fixedsize_stack stacks_{64 * 1024};
  std::vector<Thread> threads_{std::size_t(K::threads)};
  SharedMemory memory_;
};

/// The name of a kernel's template, without namespaces and arguments.
template <class K> std::string name_of() {
  int status = 0;
  char* text = abi::__cxa_demangle(typeid(K).name(), nullptr, nullptr, &status);
  std::string name(text);
  std::free(text);
  name = name.substr(0, name.find('<'));
  return name.substr(name.rfind(':') + 1);
}

/// Models cuda::Stream, and remembers which kernels it ran.
class Stream {
 public:
  explicit Stream(bool backwards = false) : backwards_(backwards) {}

  template <class T> T* scratch(std::int64_t count) {
    memory_.assign(std::size_t(count) * sizeof(T) / 8 + 4, ~std::uint64_t{0});
    return reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(memory_.data()) + 15) / 16 * 16);
  }
  template <ctrain::cuda::Kernel K> void launch(const K& kernel) {
    names.insert(name_of<K>());
    Grid<K>(kernel, backwards_).run();
  }

  std::set<std::string> names;

 private:
  bool backwards_;
  std::vector<std::uint64_t> memory_;
};

}  // namespace emulation
