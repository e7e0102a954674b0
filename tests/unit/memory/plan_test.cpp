#include <ctrain/memory/budget.hpp>
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/check.hpp>

#include <catch2/catch.hpp>

#include <string>

#include "grid.hpp"
#include "shadow_step.hpp"

namespace {

using namespace ctrain;

constexpr Policy on(const ModelShape& m, Batch batch, Compute compute = Compute::fp32,
                    Recompute recompute = Recompute::none, Device device = a100_80gb) {
  return {
      .model = m, .batch = batch, .precision = {compute}, .recompute = recompute, .device = device};
}
constexpr Batch packed{.packed_tokens = 2048}, padded{.sentences = 4, .length = 512};

// No placement can be smaller: the plan of a step is exactly what is alive at the worst moment.
constexpr bool meets_its_bound(const Policy& p) {
  const MemoryPlan m = plan_memory(p);
  return m.step.size == m.step_bound && m.step_bound > 0;
}
constexpr bool meets_its_bound(const ModelShape& m) {
  for (const Compute c : {Compute::fp32, Compute::bf16})
    for (const Recompute r : {Recompute::none, Recompute::full})
      if (!meets_its_bound(on(m, packed, c, r))) return false;
  return true;
}
static_assert(meets_its_bound(erlangshen_1b3));
static_assert(meets_its_bound(bert_base_chinese));

// A block more is a slot and a block's parameters more, four times over, and nothing else.
constexpr bool depth_adds_a_slot_and_a_block(Policy p) {
  const MemoryPlan shallow = plan_memory(p);
  p.model.layers += 1;
  const MemoryPlan deep = plan_memory(p);
  const bytes block = parameters_of(p.model).block_size * 4;
  const bytes copies =
      copies_of_weights(p) * block_matrix_elements(p.model) * size_of(p.compute_type());
  return deep.slot == shallow.slot && deep.workspace() == shallow.workspace() &&
         deep.total() - shallow.total() == shallow.slot + 4 * block + copies;
}
static_assert(depth_adds_a_slot_and_a_block(on(erlangshen_1b3, packed)));
static_assert(depth_adds_a_slot_and_a_block(on(erlangshen_1b3, packed, Compute::bf16)));
static_assert(depth_adds_a_slot_and_a_block(on(bert_base_chinese, padded, Compute::bf16,
                                               Recompute::full, host_memory(64 * GiB))));

// What a block of MegatronBERT keeps in fp32, a token: its input, both norms, their outputs, query
// key value, the context, both feed-forward halves, and one sum a head.
constexpr MemoryPlan big = plan_memory(on(erlangshen_1b3, packed));
static_assert(big.slot == 4LL * 2048 * ((1 + 1 + 3 + 1 + 1 + 1) * 2048 + 2 * 8192 + 4 + 8));
// With recompute, its input.
static_assert(plan_memory(on(erlangshen_1b3, packed, Compute::fp32, Recompute::full)).slot ==
              4LL * 2048 * 2048);
// BERT's also two numbers a token, of the norm that ends it.
static_assert(plan_memory(on(bert_base_chinese, packed, Compute::fp32, Recompute::full)).slot ==
              4LL * 2048 * (768 + 2));

// Tensor ranks share the columns of wide tensors; norms, their inputs and the stream are whole on
// each. With rows split as well, each keeps an equal part of everything.
constexpr MemoryPlan on_tensor_ranks(int tensor, bool sequence) {
  Policy p = on(erlangshen_1b3, packed);
  p.parallel = {.tensor = tensor, .sequence = sequence};
  return plan_memory(p);
}
static_assert(on_tensor_ranks(4, false).slot ==
              4LL * 2048 * (4 * 2048 + 4 + ((3 + 1) * 2048 + 2 * 8192 + 8) / 4));
static_assert(on_tensor_ranks(2, true).slot * 2 == big.slot &&
              on_tensor_ranks(8, true).slot * 8 == big.slot);
static_assert(on_tensor_ranks(8, true).parameters.size ==
              round_up(parameters_of(erlangshen_1b3, 8).flat_size() * 4, 64));

// Weights, gradients and both moments: 16 bytes a parameter, and the little that alignment takes.
static_assert(big.parameters.size + big.gradients.size + big.optimizer_state() -
                  16 * parameters_of(erlangshen_1b3).count() <
              393 * 16 * 16);
static_assert(big.weight_copies.size == 0);
constexpr Policy on_host =
    on(erlangshen_1b3, packed, Compute::fp32, Recompute::none, host_memory(64 * GiB));
static_assert(plan_memory(on_host).weight_copies.size == 2 * 4LL * 24 * (12LL * 2048 * 2048));
static_assert(big.runtime == a100_80gb.reserved && plan_memory(on_host).runtime == 0);

// Plain weights need no copies, and gradients in bf16 are half as large in the blocks' matrices.
constexpr Policy smallest = [] {
  Policy p = on_host;
  p.precision = {Compute::bf16, Compute::bf16};
  p.weights = WeightLayout::plain;
  return p;
}();
static_assert(plan_memory(smallest).weight_copies.size == 0);
static_assert(big.gradients.size - plan_memory(smallest).gradients.size ==
              2 * 24 * block_matrix_elements(erlangshen_1b3));
static_assert(plan_memory(smallest).parameters.size == big.parameters.size);

// Host threads have a workspace each, and attention no other.
constexpr bytes host_extra =
    plan_memory(on_host).workspace() - (big.workspace() - big.scratch.size);
static_assert(host_extra >= 0 && host_extra <= 8 * 2 * 128 * 128 * 4);

constexpr bool batch_arrays_are_apart(const Policy& p) {
  const BatchLayout b = batch_layout(p);
  const bytes at[] = {b.token_ids, b.token_types, b.positions, b.row_keys,
                      b.first_row, b.lengths,     b.labels,    b.size};
  for (int i = 0; i < 4; ++i)
    if (at[i + 1] - at[i] < 4 * p.batch.rows()) return false;
  for (int i = 4; i < 7; ++i)
    if (at[i + 1] - at[i] < 4 * (p.batch.sentence_bound() + 1)) return false;
  return plan_memory(p).batch.size == b.size + Split::numbers + Split::state + Split::record;
}
static_assert(batch_arrays_are_apart(on(erlangshen_1b3, packed)));
static_assert(batch_arrays_are_apart(on(erlangshen_1b3, padded)));

// The states of 1,257,371,650 parameters on each of N data ranks, in hundredths of GB, as in the
// ZeRO paper's table (arXiv 1910.02054) for 16 bytes a parameter; here weights and gradients have 4
// each, the optimizer 8.
constexpr std::int64_t states(int data, int stage) {
  Policy p = on(erlangshen_1b3, packed);
  p.parallel.data = data;
  p.zero.stage = stage;
  const MemoryPlan m = plan_memory(p);
  return (m.parameters.size + m.gradients.size + m.optimizer_state() + 5'000'000) / 10'000'000;
}
static_assert(states(1, 0) == 2012 && states(2, 0) == 2012 && states(8, 0) == 2012);
static_assert(states(2, 1) == 1509 && states(4, 1) == 1257 && states(8, 1) == 1132);
static_assert(states(2, 2) == 1257 && states(4, 2) == 880 && states(8, 2) == 692);
static_assert(states(2, 3) == 1006 && states(4, 3) == 503 && states(8, 3) == 251);

/// Every preset, precision, recompute and device, four batches and depths, `workers` on a host.
template <class Visit> void for_each_full_policy(int workers, Visit&& visit) {
  for (const ModelShape& shape :
       {erlangshen_1b3, erlangshen_3b9, bert_base_chinese, megatron_bert_mini})
    for (const Compute c : {Compute::fp32, Compute::bf16})
      for (const Recompute r : {Recompute::none, Recompute::full})
        for (const Batch& batch :
             {packed, padded, Batch{.packed_tokens = 512}, Batch{.sentences = 1}})
          for (const Device& d : {a100_80gb, host_memory(64 * GiB, workers)})
            for (const int layers : {1, 2, 24, 96}) {
              ModelShape m = shape;
              m.layers = layers;
              visit(on(m, batch, c, r, d));
            }
}

struct Finetune {
  static constexpr Policy policy =
      on(erlangshen_1b3, packed, Compute::bf16, Recompute::none, a100_40gb);
};
static_assert(check<Finetune>());
static_assert(sizeof(typename PlanOf<Finetune>::check) == 1);

}  // namespace

TEST_CASE("memory.plan.meets_its_lower_bound_whatever_the_policy") {
  for_each_small_policy([](const Policy& p, const std::string& what) {
    INFO(what);
    const MemoryPlan m = plan_memory(p);
    CHECK(m.step.size == m.step_bound);
  });
}

TEST_CASE("memory.plan.meets_its_lower_bound_at_full_size") {
  for_each_full_policy(8, [](const Policy& p) {
    const MemoryPlan m = plan_memory(p);
    CHECK(m.step.size == m.step_bound);
  });
}

TEST_CASE("memory.plan.is_within_5_per_cent_of_its_bound_with_64_threads") {
  for_each_full_policy(64, [](const Policy& p) {
    const MemoryPlan m = plan_memory(p);
    if (p.model.norm == NormPlacement::pre_layer_norm)
      CHECK(m.step.size == m.step_bound);
    else
      CHECK(m.step.size <= m.step_bound / 100 * 105);
  });
}

TEST_CASE("memory.plan.the_bound_is_what_the_expanded_step_keeps_alive") {
  for_each_small_policy([](const Policy& p, const std::string& what) {
    INFO(what);
    const Graph g = derive_graph(p);
    const MemoryPlan m = plan_memory(g, p);
    ShadowStep step(g, p, m);
    REQUIRE(step.run());
    CHECK(step.most_alive() == m.step_bound);
  });
}

TEST_CASE("memory.plan.a_smaller_batch_never_needs_more") {
  bytes before = plan_memory(on(erlangshen_1b3, {.packed_tokens = 8192})).total();
  for (int tokens = 4096; tokens >= 128; tokens /= 2) {
    const bytes now = plan_memory(on(erlangshen_1b3, {.packed_tokens = tokens})).total();
    CHECK(now < before);
    before = now;
  }
}

TEST_CASE("memory.plan.categories_sum_to_the_total") {
  for_each_small_policy([](const Policy& p, const std::string& what) {
    INFO(what);
    const MemoryPlan m = plan_memory(p);
    CHECK(regions_tile_the_arena(m));
    CHECK(m.parameters.size + m.gradients.size + m.optimizer_state() + m.weight_copies.size +
              m.batch.size + m.activations() + m.workspace() + m.runtime ==
          m.total());
  });
}
