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

#include <sys/resource.h>

namespace {

std::atomic<long> allocations{0};

}  // namespace

// Every allocation of the process through the C++ runtime is counted, also those inside libraries.
void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  ++allocations;
  if (void* memory = std::aligned_alloc(
          std::size_t(alignment),
          (size + std::size_t(alignment) - 1) / std::size_t(alignment) * std::size_t(alignment)))
    return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace {

using namespace ctrain;

constexpr ModelShape small{.vocabulary = 512,
                           .positions = 64,
                           .layers = 3,
                           .hidden = 128,
                           .heads = 2,
                           .feed_forward = 512};

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

/// Sentences of lengths that change from batch to batch; every number of sentences occurs.
struct Changing {
  const Batch& shape;
  int opened = 0, first_opened = 0;

  int open(int count) {
    first_opened = opened + 1;
    opened += count;
    return count;
  }
  static int length_of(int batch, int s) { return 5 + (s * 7 + batch * 11) % 60; }
  int rows_of(int batch, int s) const {
    return shape.packed() ? length_of(batch, s) : shape.length;
  }
  int sentences(int i) const {
    int count = 0;
    for (int rows = 0; count < shape.sentence_bound() - (first_opened + i) % 3; ++count)
      if ((rows += rows_of(first_opened + i, count)) > shape.rows()) break;
    return count;
  }
  void fill(int i, BatchView& b, std::uint32_t first) const {
    const int batch = first_opened + i;
    b.rows = b.sentences = 0;
    for (int s = 0; s < sentences(i); ++s) {
      const int length = length_of(batch, s), rows = rows_of(batch, s);
      b.first_row[s] = b.rows;
      b.lengths[s] = length;
      b.labels[s] = (s + batch) % 2;
      for (int i = 0; i < rows; ++i, ++b.rows) {
        b.token_ids[b.rows] = i < length ? 1 + (s * 31 + i * 17 + batch) % 500 : 0;
        b.token_types[b.rows] = i > length / 2 && i < length;
        b.positions[b.rows] = i;
        b.row_keys[b.rows] = (first + std::uint32_t(s)) * 512 + std::uint32_t(i);
      }
      b.first_row[++b.sentences] = b.rows;
    }
    const int all = int(round_up(b.rows, shape.row_step()));
    for (; b.rows < all; ++b.rows)
      b.token_ids[b.rows] = b.token_types[b.rows] = b.positions[b.rows] = 0, b.row_keys[b.rows] = 0;
  }
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
  CHECK(allocated == 0);
  CHECK(least_faults == 0);
  CHECK(loss > 0);
  CHECK(trainer.arena().high_water() == trainer.plan().arena());
}
