// The plan is the allocation: after the first step no memory is taken, no page faults, and the
// arena's high-water mark is the plan's to the byte.
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdlib>
#include <new>
#include <type_traits>

#include "changing_sentences.hpp"
#include <sys/resource.h>

namespace {

std::atomic<long> allocations{0};

}  // namespace

// Every allocation of the process through the C++ runtime is counted, also those inside libraries.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  ++allocations;
  if (void* memory = std::aligned_alloc(
          std::size_t(alignment),
          (size + std::size_t(alignment) - 1) / std::size_t(alignment) * std::size_t(alignment)))
    return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace {

using namespace ctrain;

struct Fp32 {
  static constexpr Policy policy{.model = small,
                                 .batch = {.packed_tokens = 512, .length = 64},
                                 .device = host_memory(256 * MiB, 4)};
};
struct Bf16 {
  static constexpr Policy policy{.model = small,
                                 .batch = {.packed_tokens = 512, .length = 64, .accumulation = 2},
                                 .precision = {Compute::bf16},
                                 .device = host_memory(256 * MiB, 4)};
};
struct Padded {
  static constexpr Policy policy{.model = small,
                                 .batch = {.sentences = 8, .length = 64},
                                 .weights = WeightLayout::plain,
                                 .device = host_memory(256 * MiB, 4)};
};
struct Recomputed {
  static constexpr Policy policy{.model = small,
                                 .batch = {.packed_tokens = 512, .length = 64},
                                 .recompute = Recompute::full,
                                 .device = host_memory(256 * MiB, 4)};
};
struct PostNorm {
  static constexpr Policy policy = [] {
    Policy p = Bf16::policy;
    p.model.norm = NormPlacement::post_layer_norm;
    return p;
  }();
};

long page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

}  // namespace

TEMPLATE_TEST_CASE("trainer.steady_state.no_allocation_no_page_fault_and_the_planned_high_water",
                   "", Fp32, Bf16, Padded, Recomputed, PostNorm) {
  using P = TestType;
  Trainer<P> trainer;
  Changing feed{P::policy.batch};
  const StepNumbers numbers{
      .seed = 1, .step = 0, .learning_rate = 1e-4, .weight_decay = 0.1f, .clip = 1.0f};
  // The batches come in three shapes, and code is paged in from its file when it first runs.
  for (int i = 0; i < 3; ++i) trainer.step().train(feed, numbers);

  // A system may take pages back behind a process (proactive reclaim, swap): a step that faults by
  // itself would do so in every one of these windows.
  long least_faults = LONG_MAX, allocated = 0;
  double loss = 0;
  for (int window = 0; window < 5 && least_faults > 0; ++window) {
    const long allocations_before = allocations, faults_before = page_faults();
    for (int i = 1; i < 40; ++i) {
      StepNumbers n = numbers;
      n.step = i;
      loss += trainer.step().train(feed, n).loss();
    }
    least_faults = std::min(least_faults, page_faults() - faults_before);
    allocated += allocations - allocations_before;
  }
  // oneDNN, which multiplies fp32 where there is no AVX-512, allocates inside its calls.
  if constexpr (std::is_same_v<Cpu, CpuWith<cpu::PanelProducts>>) CHECK(allocated == 0);
  CHECK(least_faults == 0);
  CHECK(loss > 0);
  CHECK(trainer.arena().high_water() == trainer.plan().arena());
}
