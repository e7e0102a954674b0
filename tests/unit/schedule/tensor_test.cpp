// What tensor ranks send in one block: two sums forward and two backward, as in Megatron-LM.
// Compiling it is the test.
#include <ctrain/policy/presets.hpp>
#include <ctrain/schedule/cost.hpp>
#include <ctrain/schedule/schedule.hpp>

namespace {

using namespace ctrain;

/// Bytes that one of two ranks sends in one block, of batch 4 padded to 512.
constexpr double bytes_of_a_block(bool sequence, bool backward) {
  const Policy p{.batch = {.sentences = 4, .length = 512},
                 .precision = {Compute::bf16},
                 .parallel = {.tensor = 2, .sequence = sequence}};
  const Graph g = derive_graph(p);
  double sum = 0;
  for (const Op& op : (backward ? g.backward_block : g.forward_block).ops)
    sum += cost_of(g, op, p).bytes_sent;
  return sum;
}
constexpr double stream = 2.0 * 4 * 512 * 2048;  // B S H elements in bf16
static_assert(bytes_of_a_block(false, false) == 2 * stream);
static_assert(bytes_of_a_block(false, true) == 2 * stream);
// Sequence parallelism: a reduce-scatter and an all-gather move what an all-reduce does. Backward
// gathers the inputs of two products again, since only rows of them are kept: half as much again.
static_assert(bytes_of_a_block(true, false) == 2 * stream);
static_assert(bytes_of_a_block(true, true) == 3 * stream);

template <int Tensor, bool Sequence> struct Large {
  static constexpr Policy policy{.batch = {.packed_tokens = 2048},
                                 .parallel = {.tensor = Tensor, .sequence = Sequence},
                                 .device = a100_40gb};
};
static_assert(check_schedule<Large<2, false>>() && check_schedule<Large<8, true>>());

}  // namespace
