// Every product of a step has its algorithm before the first step: what steps of many shapes ask a
// device's library for is among what a policy says they can.
#include <ctrain/backend/cuda/dry_run.hpp>
#include <ctrain/backend/cuda/policy_products.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/dry_ranks.hpp>
#include <ctrain/trainer/step.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <type_traits>

namespace {

using namespace ctrain;

constexpr ModelShape tanh_form{
    .vocabulary = 256, .positions = 64, .layers = 2, .hidden = 64, .heads = 4, .feed_forward = 128};
constexpr ModelShape erf_form{.norm = NormPlacement::post_layer_norm,
                              .activation = Activation::gelu_erf,
                              .vocabulary = 256,
                              .positions = 64,
                              .layers = 2,
                              .hidden = 64,
                              .heads = 4,
                              .feed_forward = 128};
constexpr Batch packed{.packed_tokens = 128, .sentences = 40, .length = 32, .accumulation = 2};

struct in_bf16 {
  static constexpr Policy policy{.model = tanh_form,
                                 .batch = packed,
                                 .precision = {.compute = Compute::bf16},
                                 .recompute = Recompute::full,
                                 .device = gpu_24gb};
};
struct in_fp32_with_narrow_head {
  static constexpr Policy policy{.model = erf_form, .batch = packed, .device = gpu_24gb};
};
struct narrow_gradients {
  static constexpr Policy policy{
      .model = tanh_form,
      .batch = {.sentences = 5, .length = 32},
      .precision = {.compute = Compute::bf16, .gradients = Compute::bf16},
      .device = gpu_24gb};
};
struct over_tensor_ranks {
  static constexpr Policy policy{.model = tanh_form,
                                 .batch = packed,
                                 .precision = {.compute = Compute::bf16},
                                 .parallel = {.tensor = 2, .sequence = true},
                                 .device = gpu_24gb};
};

/// Micro-batches of every number of rows and sentences in turn.
template <class P> struct EveryShape {
  static constexpr Batch batch = P::policy.batch;
  int next = 0;

  int open(int count) {
    next += count;
    return count;
  }
  int sentences(int i) const {
    return batch.packed() ? 1 + (next + i) * 7 % batch.sentence_bound() : batch.sentences;
  }
  void fill(int i, BatchView& b, std::uint32_t) const {
    b.sentences = sentences(i);
    const int steps = batch.rows() / batch.row_step();
    b.rows = batch.packed() ? (1 + (next + i) % steps) * batch.row_step() : batch.rows();
    for (int s = 0; s <= b.sentences; ++s) b.first_row[s] = b.rows * s / b.sentences;
    for (int s = 0; s < b.sentences; ++s)
      b.lengths[s] = std::max(1, b.first_row[s + 1] - b.first_row[s]), b.labels[s] = 0;
  }
};

template <class P> void prepares_what_it_asks_for() {
  using Ranks = std::conditional_t<P::policy.parallel.ranks() == 1, Single, DryRanks>;
  DryRun backend;
  Ranks ranks = [&] {
    if constexpr (P::policy.parallel.ranks() == 1)
      return Single();
    else
      return DryRanks(backend, 1, P::policy);
  }();
  MemoryMap<P, DryRun::Arena> map(grid_of(P::policy.parallel).at(ranks.rank()));
  Step<P, DryRun, Ranks> step(backend, map, ranks);
  EveryShape<P> feed;
  StepResult ignored;
  for (int i = 0; i < 24; ++i) {
    step.train(feed, {.step = i, .learning_rate = 1e-5, .clip = 1});
    step.evaluate(feed, ignored);
  }
  backend.take();
  const auto prepared = cuda::products_of(GraphOf<P>::graph, P::policy);
  CHECK(backend.products().size() >= 18);
  CHECK(std::ranges::includes(prepared, backend.products()));
}

}  // namespace

TEST_CASE("trainer.policy_products.cover_every_step") {
  prepares_what_it_asks_for<in_bf16>();
  prepares_what_it_asks_for<in_fp32_with_narrow_head>();
  prepares_what_it_asks_for<narrow_gradients>();
  prepares_what_it_asks_for<over_tensor_ranks>();
}

TEST_CASE("trainer.policy_products.are_a_few_for_each_number_of_rows") {
  constexpr Policy p{.batch = {.packed_tokens = 16384},
                     .precision = {.compute = Compute::bf16},
                     .device = h100_80gb};
  // 64 numbers of rows of four layers; 64 of sentences of two: all are asked for in a second.
  CHECK(cuda::products_of(derive_graph(p), p).size() <= 64 * 6 * 8);
}
