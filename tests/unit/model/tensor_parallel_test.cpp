// The programs of one tensor rank: where ranks meet, what each holds, and that a rank does what the
// model does. Nothing is computed here; results are compared in tests/unit/trainer.
#include <ctrain/model/backward.hpp>
#include <ctrain/policy/presets.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace {

using namespace ctrain;

constexpr Policy policy_of(const ModelShape& model, Compute compute, int tensor, bool sequence,
                           Recompute recompute = Recompute::none) {
  return {.model = model,
          .batch = {.packed_tokens = 2048},
          .precision = {compute},
          .recompute = recompute,
          .parallel = {.tensor = tensor, .sequence = sequence},
          .device = host_memory(64 * GiB)};
}
constexpr bool is_proved(const Policy& p) {
  return tensor_rank_does_what_the_model_does(derive_whole_graph(p), derive_graph(p),
                                              p.parallel.sequence);
}
constexpr int count(const Program& p, OpKind kind) {
  int n = 0;
  for (const Op& op : p.ops) n += op.kind == kind;
  return n;
}
constexpr int meetings(const Program& p) {
  int n = 0;
  for (const Op& op : p.ops) n += is_exchange(op.kind);
  return n;
}

// Two sums forward and two backward in a block, as in Megatron-LM, and one for the word table.
constexpr bool meets_as_megatron_does(const ModelShape& model, Compute compute) {
  const Policy p = policy_of(model, compute, 2, false);
  const Graph g = derive_graph(p);
  return is_proved(p) && norms_alone_see_own_rows(g, false) &&
         count(g.forward_block, OpKind::all_reduce) == 2 && meetings(g.forward_block) == 2 &&
         count(g.backward_block, OpKind::all_reduce) == 2 && meetings(g.backward_block) == 2 &&
         count(g.forward_embedding, OpKind::all_reduce) == 1 &&
         meetings(g.forward_embedding) == 1 && meetings(g.forward_head) == 0 &&
         meetings(g.backward_head) == 0 && meetings(g.backward_embedding) == 0;
}
static_assert(meets_as_megatron_does(erlangshen_1b3, Compute::fp32));
static_assert(meets_as_megatron_does(erlangshen_1b3, Compute::bf16));
static_assert(meets_as_megatron_does(bert_base_chinese, Compute::fp32));
static_assert(meets_as_megatron_does(bert_base_chinese, Compute::bf16));

// With sequence parallelism every sum becomes a reduce-scatter and an all-gather. Backward gathers
// the inputs of two products again, since only rows of them are kept.
constexpr bool keeps_rows(const ModelShape& model, Compute compute) {
  const Policy p = policy_of(model, compute, 4, true);
  const Graph g = derive_graph(p);
  return is_proved(p) && norms_alone_see_own_rows(g, true) &&
         count(g.forward_block, OpKind::reduce_scatter) == 2 &&
         count(g.forward_block, OpKind::all_gather) == 2 &&
         count(g.backward_block, OpKind::reduce_scatter) == 2 &&
         count(g.backward_block, OpKind::all_gather) == 2 + 2 &&
         g.tensors.rows[g.stream].spread == Spread::rows &&
         g.tensors.rows[g.d_stream].spread == Spread::rows;
}
static_assert(keeps_rows(erlangshen_1b3, Compute::fp32));
static_assert(keeps_rows(erlangshen_1b3, Compute::bf16));
static_assert(keeps_rows(bert_base_chinese, Compute::fp32));
static_assert(keeps_rows(bert_base_chinese, Compute::bf16));

// One rank alone meets nobody.
constexpr Graph alone = derive_graph(policy_of(erlangshen_1b3, Compute::bf16, 1, false));
static_assert(meetings(alone.forward_block) == 0 && meetings(alone.backward_block) == 0);
static_assert(alone.parameters.count() == 1257371650);

// All ranks' parameters are the model's, and one more copy a rank of what each holds whole: norms,
// output biases, position and token types, head.
constexpr std::int64_t held_by_all(const ModelShape& m) {
  const std::int64_t h = m.hidden;
  return (m.positions + m.token_types) * h + m.layers * 6 * h + 2 * h + h * h + h +
         m.labels * (h + 1);
}
constexpr bool shares_add_up(const ModelShape& m, int ranks) {
  return ranks * parameters_of(m, ranks).count() ==
         parameters_of(m).count() + (ranks - 1) * held_by_all(m);
}
static_assert(shares_add_up(erlangshen_1b3, 2) && shares_add_up(erlangshen_1b3, 8) &&
              shares_add_up(megatron_bert_mini, 4));

template <class Check> void for_each_policy(Check&& check) {
  for (const ModelShape& m : {megatron_bert_mini, bert_base_chinese})
    for (const Compute c : {Compute::fp32, Compute::bf16})
      for (const Recompute r : {Recompute::none, Recompute::full})
        for (const int tensor : {2, 4})
          for (const bool sequence : {false, true}) check(policy_of(m, c, tensor, sequence, r));
}

/// True iff `gather` may come before `op`: it collects what `op` does not write, to where `op` does
/// not look.
bool gathers_early(const Graph& g, const Op& op, const Op& gather) {
  if (gather.kind != OpKind::all_gather || op.kind == OpKind::all_gather) return false;
  for (const Operand& y : op.outputs)
    if (y == gather.inputs[0]) return false;
  for (const Operand& x : op.inputs)
    if (x == gather.outputs[0]) return false;
  // A sum stands right after the op that leaves its summands.
  return !tensor_parallel::leaves_summand(g, op, true);
}

constexpr Program Graph::*programs[] = {&Graph::forward_embedding, &Graph::forward_block,
                                        &Graph::forward_head,      &Graph::backward_head,
                                        &Graph::recompute_block,   &Graph::backward_block,
                                        &Graph::backward_embedding};

}  // namespace

TEST_CASE("model.tensor_parallel.every_rank_does_what_the_model_does") {
  for_each_policy([](const Policy& p) {
    CHECK(is_proved(p));
    CHECK(norms_alone_see_own_rows(derive_graph(p), p.parallel.sequence));
  });
}

TEST_CASE("model.tensor_parallel.a_missing_or_moved_op_is_noticed") {
  int spoilt = 0;
  for_each_policy([&](const Policy& p) {
    const Graph whole = derive_whole_graph(p), right = derive_graph(p);
    const auto rejected = [&](const Graph& g) {
      return !tensor_rank_does_what_the_model_does(whole, g, p.parallel.sequence);
    };
    for (const auto program : programs) {
      const int size = (right.*program).ops.size;
      for (int at = 0; at < size; ++at, ++spoilt) {
        Graph g = right;
        Program& spoiled = g.*program;
        for (int i = at; i + 1 < size; ++i) spoiled.ops[i] = spoiled.ops[i + 1];
        --spoiled.ops.size;
        CHECK(rejected(g));
        if (at + 1 == size) continue;
        g = right;
        std::swap(spoiled.ops[at], spoiled.ops[at + 1]);
        CHECK(rejected(g) != gathers_early(right, (right.*program).ops[at], spoiled.ops[at]));
      }
    }
  });
  CHECK(spoilt > 1000);
}

TEST_CASE("model.tensor_parallel.an_operand_spread_otherwise_is_noticed") {
  for_each_policy([](const Policy& p) {
    const Graph whole = derive_whole_graph(p), right = derive_graph(p);
    for (int t = 0; t < right.tensors.size; ++t) {
      if (right.tensors[t].rows != Rows::tokens || right.tensors[t].cols == 1) continue;
      for (const Spread other : {Spread::whole, Spread::rows, Spread::features}) {
        if (right.tensors[t].spread == other) continue;
        Graph g = right;
        g.tensors[t].spread = other;
        INFO(right.tensors[t].name);
        CHECK_FALSE(tensor_rank_does_what_the_model_does(whole, g, p.parallel.sequence));
      }
    }
  });
}

TEST_CASE("model.tensor_parallel.slices_tile_every_logical_tensor") {
  ModelShape m = megatron_bert_mini;
  m.vocabulary = 64;
  for (const NormPlacement norm : {NormPlacement::pre_layer_norm, NormPlacement::post_layer_norm})
    for (const int ranks : {1, 2, 4}) {
      m.norm = norm;
      const ParameterTable whole = parameters_of(m), part = parameters_of(m, ranks);
      for (int i = 0; i < whole.rows.size; ++i) {
        const Parameter& p = part.rows[i];
        std::vector<int> held(std::size_t(whole.rows[i].elements()));
        for (int rank = 0; rank < ranks; ++rank) {
          const Slice slice = slice_of(p, rank, ranks);
          CHECK(slice.rows == whole.rows[i].rows);
          CHECK(slice.cols == whole.rows[i].cols);
          if (speaks_for(p, rank))
            for (std::int64_t e = 0; e < p.elements(); ++e)
              ++held.at(std::size_t(slice.logical(p, e)));
        }
        INFO(std::string(p.name) << " over " << ranks);
        CHECK(held == std::vector<int>(held.size(), 1));
      }
    }
}
