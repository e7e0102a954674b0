// Is the proof a proof? It is compared with a walk over every block of the step, in which each line
// of memory knows what was written to it last: on plans as they are, and on plans spoilt at random.
#include <ctrain/memory/proof.hpp>

#include <catch2/catch.hpp>

#include <random>
#include <string>

#include "grid.hpp"
#include "shadow_step.hpp"

namespace {

using namespace ctrain;

/// Where a tensor could be put by someone who has understood nothing.
class Mutation {
 public:
  explicit Mutation(std::uint32_t seed) : random_(seed) {}

  /// Moves one placement by whole lines to anywhere in the step's region. What a block keeps moves
  /// within its slot, as in every plan that place_step can make.
  MemoryPlan spoil(const Graph& g, const MemoryPlan& m) {
    MemoryPlan spoilt = m;
    Placement* at = nullptr;
    do at = &spoilt.tensors[below(g.tensors.size)];
    while (at->offset < 0);
    const bytes first = at->per_block ? slot_start(g, m) : m.step.offset;
    const bytes room = (at->per_block ? m.slot : m.step.size) - at->size;
    at->offset = first + bytes(below(int(room / 64) + 1)) * 64;
    return spoilt;
  }

 private:
  int below(int n) { return int(random_() % std::uint32_t(n)); }
  /// Start of the first block's slot, which is where its input stands.
  static bytes slot_start(const Graph& g, const MemoryPlan& m) {
    return m.tensors[g.stream].offset;
  }

  std::mt19937 random_;
};

bool proved(const Graph& g, const Policy& p, const MemoryPlan& m) {
  return no_live_tensors_overlap(g, p, m) && blocks_chain(g, m, p);
}

}  // namespace

TEST_CASE("memory.proof.holds_for_every_block_of_every_plan") {
  for_each_small_policy([](const Policy& p, const std::string& what) {
    INFO(what);
    const Graph g = derive_graph(p);
    const MemoryPlan m = plan_memory(g, p);
    CHECK(proved(g, p, m));
    ShadowStep step(g, p, m);
    CHECK(step.run());
    INFO(step.fault());
    CHECK(step.fault().empty());
  });
}

TEST_CASE("memory.proof.holds_for_every_block_of_a_tensor_rank") {
  for_each_tensor_policy([](const Policy& p, const std::string& what) {
    INFO(what);
    const Graph g = derive_graph(p);
    const MemoryPlan m = plan_memory(g, p);
    CHECK(every_parameter_has_one_gradient(g));
    CHECK(proved(g, p, m));
    ShadowStep step(g, p, m);
    CHECK(step.run());
    INFO(step.fault());
    CHECK(step.fault().empty());
    CHECK(step.most_alive() <= m.step_bound);
    // Two of these, of one rank's 48 columns and two workspaces, miss their bound.
    CHECK(m.step.size <= m.step_bound / 100 * 110);
  });
}

TEST_CASE("memory.proof.says_no_exactly_when_memory_is_overwritten") {
  Mutation mutation(20);
  int spoilt = 0, unharmed = 0, unsound = 0, too_strict = 0;
  for_each_small_policy([&](const Policy& p, const std::string& what) {
    const Graph g = derive_graph(p);
    const MemoryPlan m = plan_memory(g, p);
    for (int i = 0; i < 20; ++i) {
      const MemoryPlan other = mutation.spoil(g, m);
      ShadowStep step(g, p, other);
      const bool right = step.run(), claimed = proved(g, p, other);
      right ? ++unharmed : ++spoilt;
      unsound += claimed && !right;
      too_strict += !claimed && right;
      if (claimed != right) WARN(what + ": " + step.fault());
    }
  });
  CHECK(unsound == 0);
  CHECK(too_strict == 0);
  CHECK(spoilt > 1000);
  CHECK(unharmed > 100);
}

TEST_CASE("memory.proof.sees_each_kind_of_fault") {
  const Policy p{.model = small_model(NormPlacement::pre_layer_norm, 3),
                 .batch = {.packed_tokens = 64, .length = 32},
                 .device = {DeviceKind::host, GiB, 0, 2}};
  const Graph g = derive_graph(p);
  const MemoryPlan right = plan_memory(g, p);

  MemoryPlan m = right;
  m.tensors[g.d_stream].offset = m.step.end();
  CHECK_FALSE(no_live_tensors_overlap(g, p, m));  // outside
  m = right;
  m.tensors[g.d_stream].offset = m.step.offset;
  CHECK_FALSE(no_live_tensors_overlap(g, p, m));  // over what other blocks keep
  m = right;
  m.tensors[g.stream].size -= 64;
  CHECK_FALSE(no_live_tensors_overlap(g, p, m));  // too small
  m = right;
  m.stream_after_last.offset += 64;
  CHECK_FALSE(blocks_chain(g, m, p));  // handed on elsewhere
  m = right;
  m.gradients.offset -= 64;
  CHECK_FALSE(regions_tile_the_arena(m));
  m = right;
  m.batch.size += 1;
  CHECK_FALSE(regions_tile_the_arena(m));

  Graph no_gradient = g;
  --no_gradient.backward_block.ops.size;  // the first norm's
  CHECK_FALSE(every_parameter_has_one_gradient(no_gradient));
  Graph two_gradients = g;
  two_gradients.backward_block.ops.add(g.backward_block.ops[g.backward_block.ops.size - 1]);
  CHECK_FALSE(every_parameter_has_one_gradient(two_gradients));
}
