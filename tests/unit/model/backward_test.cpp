// What the derived tables say. Their text is compared with tests/golden/plan; their arithmetic with
// central differences and with torch elsewhere.
#include <ctrain/memory/proof.hpp>
#include <ctrain/model/backward.hpp>
#include <ctrain/model/render.hpp>
#include <ctrain/policy/presets.hpp>

#include <catch2/catch.hpp>

#include <string>

namespace {

using namespace ctrain;

constexpr Policy policy_of(const ModelShape& m, Compute compute, Recompute recompute) {
  return {.model = m,
          .batch = {.packed_tokens = 2048},
          .precision = {compute},
          .recompute = recompute,
          .device = host_memory(64 * GiB)};
}
constexpr ModelShape shapes[] = {erlangshen_1b3, bert_base_chinese};

template <class Check> void for_each_graph(Check&& check) {
  for (const ModelShape& m : shapes)
    for (const Compute c : {Compute::fp32, Compute::bf16})
      for (const Recompute r : {Recompute::none, Recompute::full})
        check(derive_graph(policy_of(m, c, r)), policy_of(m, c, r));
}

constexpr Graph megatron = derive_graph(policy_of(erlangshen_1b3, Compute::bf16, Recompute::none));
static_assert(every_parameter_has_one_gradient(megatron));

constexpr int count(const Program& p, OpKind kind) {
  int found = 0;
  for (const Op& op : p.ops) found += op.kind == kind;
  return found;
}
// A product of the forward pass is two of the backward pass: three times its arithmetic in all.
static_assert(count(megatron.forward_block, OpKind::linear) == 4);
static_assert(count(megatron.backward_block, OpKind::linear_backward_input) == 4);
static_assert(count(megatron.backward_block, OpKind::linear_backward_weight) == 4);
// The last product of a block is not computed again: backward does not read what it made.
static_assert(count(megatron.recompute_block, OpKind::linear) == 3);
static_assert(megatron.recompute_block.ops.size < megatron.forward_block.ops.size);

constexpr bool is_backward(OpKind kind) {
  return kind >= OpKind::embed_backward;
}

}  // namespace

TEST_CASE("model.backward.gives_every_parameter_one_gradient") {
  for_each_graph([](const Graph& g, const Policy&) { CHECK(every_parameter_has_one_gradient(g)); });
}

TEST_CASE("model.backward.gradients_have_the_shape_of_what_they_are_gradients_of") {
  for_each_graph([](const Graph& g, const Policy&) {
    for (const Tensor& t : g.tensors) {
      if (!t.is_gradient) continue;
      bool found = false;
      for (const Tensor& f : g.tensors)
        found = found || (!f.is_gradient && f.name == t.name && f.rows == t.rows &&
                          f.cols == t.cols && f.type == t.type);
      INFO(t.name);
      CHECK(found);
    }
  });
}

TEST_CASE("model.backward.products_read_and_write_matching_columns") {
  for_each_graph([](const Graph& g, const Policy&) {
    const auto cols = [&](Operand x) { return g.tensors[x.tensor].cols; };
    for (const Program* p : {&g.backward_head, &g.backward_block})
      for (const Op& op : p->ops) {
        if (op.kind == OpKind::linear_backward_input) {
          CHECK(cols(op.inputs[0]) == op.out);
          CHECK(cols(op.outputs[0]) == op.in);
        }
        if (op.kind == OpKind::linear_backward_weight) {
          CHECK(cols(op.inputs[0]) == op.out);
          CHECK(cols(op.inputs[1]) == op.in);
        }
      }
  });
}

TEST_CASE("model.backward.forward_and_backward_kinds_do_not_mix") {
  for_each_graph([](const Graph& g, const Policy&) {
    for (const Program* p :
         {&g.forward_embedding, &g.forward_block, &g.forward_head, &g.recompute_block})
      for (const Op& op : p->ops) CHECK_FALSE(is_backward(op.kind));
    for (const Program* p : {&g.backward_head, &g.backward_block, &g.backward_embedding})
      for (const Op& op : p->ops) CHECK(is_backward(op.kind));
  });
}

TEST_CASE("model.backward.what_is_computed_again_has_places_of_its_own") {
  for_each_graph([](const Graph& g, const Policy& p) {
    if (p.recompute == Recompute::none) return;
    for (const Op& again : g.recompute_block.ops)
      for (const Operand& y : again.outputs)
        for (const Op& op : g.forward_block.ops)
          for (const Operand& z : op.outputs)
            CHECK((y.tensor == no_tensor || y.tensor != z.tensor));
  });
}

TEST_CASE("model.backward.tables_have_room_for_more") {
  for_each_graph([](const Graph& g, const Policy&) {
    CHECK(g.tensors.size < g.tensors.capacity);
    CHECK(g.parameters.rows.size < g.parameters.rows.capacity);
    CHECK(g.backward_block.ops.size < g.backward_block.ops.capacity);
  });
}

TEST_CASE("model.render.tells_what_an_op_reads_writes_and_adds_to") {
  CHECK(render(megatron, megatron.forward_block.ops[1]) ==
        "query key value <- linear(attention input) attention.self.query.weight "
        "attention.self.query.bias 2048 -> 6144");
  const Op& last = megatron.backward_block.ops[megatron.backward_block.ops.size - 1];
  CHECK(render(megatron, last) ==
        "d_stream += layer_norm_backward(d_attention input, stream, norm mean, norm rstd) "
        "attention.ln.weight attention.ln.bias");
  CHECK(render(megatron, megatron.forward_block, "block").rfind("block\n  attention input", 0) ==
        0);
  CHECK(name_of(OpKind::cross_entropy_backward) == "cross_entropy_backward");
}
