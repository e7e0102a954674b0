// Where tensor ranks meet follows from the tables of a block: two sums forward and two backward, as
// in Megatron-LM. Compiling it is the test.
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/schedule.hpp>

namespace {

using namespace ctrain;

constexpr Policy policy_of(const ModelShape& model, Compute compute) {
  return {.model = model, .batch = {.packed_tokens = 2048}, .precision = {compute}};
}

constexpr bool meets_as_megatron_does(const ModelShape& model, Compute compute) {
  const Graph g = derive_graph(policy_of(model, compute));
  const TensorPrograms p = tensor_programs(g, false);
  return p.consistent() && p.forward_block.count(Collective::all_reduce) == 2 &&
         p.forward_block.list.size == 2 && p.backward_block.count(Collective::all_reduce) == 2 &&
         p.backward_block.list.size == 2 && p.forward_embedding.list.size == 1 &&
         p.forward_head.list.size == 0 && p.backward_head.list.size == 0 &&
         p.backward_embedding.list.size == 0 && !p.backward_block.norm_gradients_are_summands;
}
static_assert(meets_as_megatron_does(erlangshen_1b3, Compute::fp32));
static_assert(meets_as_megatron_does(erlangshen_1b3, Compute::bf16));
static_assert(meets_as_megatron_does(bert_base_chinese, Compute::fp32));
static_assert(meets_as_megatron_does(bert_base_chinese, Compute::bf16));

// Sequence parallelism: every sum becomes a reduce-scatter and an all-gather, which move the same
// bytes. Backward gathers the inputs of two products again, since only rows of them are kept.
constexpr bool keeps_rows(const ModelShape& model, Compute compute) {
  const Graph g = derive_graph(policy_of(model, compute));
  const TensorPrograms p = tensor_programs(g, true);
  return p.consistent() && p.forward_block.count(Collective::reduce_scatter) == 2 &&
         p.forward_block.count(Collective::all_gather) == 2 &&
         p.backward_block.count(Collective::reduce_scatter) == 2 &&
         p.backward_block.count(Collective::all_gather) == 2 + 2 &&
         p.backward_block.norm_gradients_are_summands;
}
static_assert(keeps_rows(erlangshen_1b3, Compute::fp32));
static_assert(keeps_rows(erlangshen_1b3, Compute::bf16));
static_assert(keeps_rows(bert_base_chinese, Compute::fp32));
static_assert(keeps_rows(bert_base_chinese, Compute::bf16));

/// Bytes that travel in one block, of batch 4 padded to 512: B S H elements a sum.
constexpr bytes payload_of_a_block(bool sequence, bool backward) {
  Policy p = policy_of(erlangshen_1b3, Compute::bf16);
  p.batch = {.sentences = 4, .length = 512};
  const Graph g = derive_graph(p);
  const TensorPrograms programs = tensor_programs(g, sequence);
  bytes sum = 0;
  for (const Meeting& m : (backward ? programs.backward_block : programs.forward_block).list)
    sum += bytes_sent(m.kind, 2, payload_of(g, m, p));
  return sum;
}
constexpr bytes stream = bytes{2} * 4 * 512 * 2048;  // bf16
static_assert(payload_of_a_block(false, false) == 2 * stream);
static_assert(payload_of_a_block(true, false) == payload_of_a_block(false, false));
static_assert(payload_of_a_block(false, true) == 2 * stream);
static_assert(payload_of_a_block(true, true) == 3 * stream);  // half as much again: stated

template <int Tensor, bool Sequence> struct Large {
  static constexpr Policy policy{.batch = {.packed_tokens = 2048},
                                 .parallel = {.tensor = Tensor, .sequence = Sequence},
                                 .device = a100_40gb};
};
static_assert(check_schedule<Large<2, false>>() && check_schedule<Large<8, true>>());

}  // namespace
