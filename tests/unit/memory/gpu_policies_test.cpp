// The 1.3B model on one card, and on 2, 4 and 8: batch, precision and card, as someone would write
// them. Compiling this is the test.
#include <ctrain/check.hpp>

#include <catch2/catch.hpp>

namespace {

using namespace ctrain;

inline constexpr Precision bf16_compute{.compute = Compute::bf16};
/// AFQMC as the convention has it: every pair padded to 512.
constexpr Batch padded(int sentences) {
  return {.sentences = sentences, .length = 512};
}
/// `pairs` of AFQMC packed; 64 tokens for each leaves room, since they average 30.
constexpr Batch packed(int pairs) {
  return {.packed_tokens = 64 * pairs, .sentences = pairs, .length = 128};
}

struct A100_40_Padded {
  static constexpr Policy policy{
      .batch = padded(4), .precision = bf16_compute, .device = a100_40gb};
};
struct A100_40_PaddedInFp32 {
  static constexpr Policy policy{.batch = padded(4), .device = a100_40gb};
};
struct A100_40_Packed {
  static constexpr Policy policy{
      .batch = packed(64), .precision = bf16_compute, .device = a100_40gb};
};
struct A100_40_LargeBatch {
  static constexpr Policy policy{.batch = padded(64),
                                 .precision = bf16_compute,
                                 .recompute = Recompute::full,
                                 .device = a100_40gb};
};
struct A100_80_Padded {
  static constexpr Policy policy{
      .batch = padded(64), .precision = bf16_compute, .device = a100_80gb};
};
struct A100_80_PackedInFp32 {
  static constexpr Policy policy{.batch = packed(256), .device = a100_80gb};
};
struct H100_Packed {
  static constexpr Policy policy{
      .batch = packed(512), .precision = bf16_compute, .device = h100_80gb};
};
struct H200_Packed {
  static constexpr Policy policy{
      .batch = packed(1024), .precision = bf16_compute, .device = h200_141gb};
};
static_assert(check<A100_40_Padded>() && check<A100_40_PaddedInFp32>());
static_assert(check<A100_40_Packed>() && check<A100_40_LargeBatch>());
static_assert(check<A100_80_Padded>() && check<A100_80_PackedInFp32>());
static_assert(check<H100_Packed>() && check<H200_Packed>());

// One step further than each card goes.
constexpr bool fits_on(Device device, Batch batch) {
  return fits({.batch = batch, .precision = bf16_compute, .device = device});
}
static_assert(fits_on(a100_40gb, padded(16)) && !fits_on(a100_40gb, padded(32)));
static_assert(fits_on(a100_80gb, padded(64)) && !fits_on(a100_80gb, padded(96)));
static_assert(fits_on(h100_80gb, packed(512)) && !fits_on(h100_80gb, packed(1024)));
static_assert(fits_on(h200_141gb, packed(1024)) && !fits_on(h200_141gb, packed(2048)));

// Several cards: what each policy shards decides how much more a card takes.
constexpr Policy on_cards(Device device, Batch batch, Parallel parallel, int zero_stage = 0) {
  return {.batch = batch,
          .precision = bf16_compute,
          .parallel = parallel,
          .zero = {.stage = zero_stage},
          .device = device};
}
struct A100_40_Two {
  static constexpr Policy policy = on_cards(a100_40gb, packed(128), {.data = 2}, 1);
};
struct A100_40_TwoByTensor {
  static constexpr Policy policy = on_cards(a100_40gb, packed(256), {.tensor = 2});
};
struct A100_40_Four {
  static constexpr Policy policy = on_cards(a100_40gb, packed(256), {.data = 4}, 2);
};
struct A100_40_FourStages {
  static constexpr Policy policy =
      on_cards(a100_40gb, {.packed_tokens = 4096, .accumulation = 8}, {.pipeline = 4});
};
struct A100_40_Eight {
  static constexpr Policy policy = on_cards(a100_40gb, packed(256), {.data = 8}, 3);
};
struct A100_80_Two {
  static constexpr Policy policy = on_cards(a100_80gb, packed(512), {.data = 2}, 1);
};
struct A100_80_Four {
  static constexpr Policy policy = on_cards(a100_80gb, packed(256), {.data = 2, .tensor = 2}, 1);
};
struct A100_80_Eight {
  static constexpr Policy policy = on_cards(a100_80gb, {.packed_tokens = 16384, .accumulation = 4},
                                            {.data = 4, .pipeline = 2}, 1);
};
struct H100_Two {
  static constexpr Policy policy = on_cards(h100_80gb, packed(512), {.data = 2}, 1);
};
struct H100_Four {
  static constexpr Policy policy = on_cards(h100_80gb, packed(512), {.data = 4}, 3);
};
struct H100_Eight {
  static constexpr Policy policy = on_cards(h100_80gb, {.packed_tokens = 8192, .accumulation = 8},
                                            {.data = 2, .tensor = 2, .pipeline = 2}, 1);
};
struct H200_Two {
  static constexpr Policy policy = on_cards(h200_141gb, packed(1024), {.data = 2});
};
struct H200_Four {
  static constexpr Policy policy =
      on_cards(h200_141gb, packed(1024), {.data = 2, .tensor = 2, .sequence = true}, 1);
};
struct H200_Eight {
  static constexpr Policy policy = on_cards(h200_141gb, packed(1024), {.data = 8}, 1);
};
static_assert(check<A100_40_Two>() && check<A100_40_TwoByTensor>() && check<A100_40_Four>());
static_assert(check<A100_40_FourStages>() && check<A100_40_Eight>());
static_assert(check<A100_80_Two>() && check<A100_80_Four>() && check<A100_80_Eight>());
static_assert(check<H100_Two>() && check<H100_Four>() && check<H100_Eight>());
static_assert(check<H200_Two>() && check<H200_Four>() && check<H200_Eight>());

// 256 pairs a card of 40 GB want their states shared: not on one card, nor on 8 with copies.
static_assert(!fits_on(a100_40gb, packed(256)));
static_assert(!fits(on_cards(a100_40gb, packed(256), {.data = 8})));
static_assert(!fits(on_cards(a100_40gb, packed(256), {.data = 8}, 1)));
static_assert(fits(on_cards(a100_40gb, packed(256), {.data = 8}, 2)));

}  // namespace

TEST_CASE("memory.gpu_policies.fit_their_cards") {
  // What the trainer takes in one allocation on the smallest card: 24.9 GiB with the runtime's.
  CHECK(PlanOf<A100_40_Padded>::plan.total() < 25 * GiB);
}
