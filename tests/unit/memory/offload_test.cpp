// What a streamed step needs on the device: a tenth of the article's least 5 GB, and a fortieth.
#include <ctrain/memory/offload.hpp>
#include <ctrain/policy/presets.hpp>

#include <catch2/catch.hpp>

namespace {

using namespace ctrain;
using T = OffloadTo;

constexpr Policy one_sentence(StreamBy unit, int buffers) {
  return {.model = erlangshen_1b3,
          .batch = {.sentences = 1, .length = 512},
          .precision = {Compute::bf16, Compute::bf16},
          .recompute = Recompute::full,
          .offload = {.optimizer = T::host,
                      .parameters = T::host,
                      .activations = T::host,
                      .unit = unit,
                      .buffers = buffers},
          .device = gpu_24gb};
}
struct ByBlock {
  static constexpr Policy policy = one_sentence(StreamBy::block, 2);
};
struct ByMatrix {
  static constexpr Policy policy = one_sentence(StreamBy::matrix, 1);
};

// Exact AdamW with clipping on 1,257,371,650 parameters, batch 1, 512 tokens.
static_assert(StreamOf<ByBlock>::plan.device() <= 512 * MiB);
static_assert(StreamOf<ByMatrix>::plan.device() <= 128 * MiB);
static_assert(StreamOf<ByBlock>::plan.disk() == 0);
// On the host: fp32 weights and moments, bf16 gradients of matrices, what blocks keep.
static_assert(StreamOf<ByBlock>::plan.host() < 17 * GiB);

// The headline's process: everything on disk, on a host.
struct OnDisk {
  static constexpr Policy policy = [] {
    Policy p = one_sentence(StreamBy::block, 2);
    p.weights = WeightLayout::plain;
    p.device = host_memory(5 * GiB, 2);
    p.offload.optimizer = p.offload.parameters = T::disk;
    return p;
  }();
};
static_assert(StreamOf<OnDisk>::plan.device() + StreamOf<OnDisk>::plan.host() < 5 * GiB / 4);
static_assert(StreamOf<OnDisk>::plan.disk() > 16 * GiB);

// Depth changes what is kept at home, not what is on the device.
struct Deeper {
  static constexpr Policy policy = [] {
    Policy p = ByBlock::policy;
    p.model.layers = 96;
    return p;
  }();
};
static_assert(StreamOf<Deeper>::plan.device() == StreamOf<ByBlock>::plan.device());

// A block in stretches: norm, query, key and value; output; norm and feed-forward; and back.
static_assert(StreamOf<ByMatrix>::units.stretches == 4);
static_assert(StreamOf<ByMatrix>::units.of(2).elements == 2 * 2048 + 3 * (2048 * 2048 + 2048));
static_assert(StreamOf<ByMatrix>::units.of(3).elements == 2048 * 2048 + 2048);
static_assert(StreamOf<ByMatrix>::units.of(4).elements == 2 * 2048 + 8192 * 2048 + 8192);
static_assert(StreamOf<ByMatrix>::units.of(5).elements == 8192 * 2048 + 2048);

}  // namespace

TEST_CASE("memory.offload.pieces_of_gradients_follow_each_other") {
  const Graph g = derive_graph(ByMatrix::policy);
  const StreamUnits units = stream_units(g, ByMatrix::policy);
  for (int unit = 0; unit < units.count(); ++unit) {
    const StreamUnit& u = units.of(unit);
    bytes at = 0;
    for (int i = 0; i < u.pieces; ++i) {
      const Region r = gradient_of_piece(g.parameters, ByMatrix::policy, u, i);
      REQUIRE(r.offset == at);
      REQUIRE(r.offset % 32 == 0);
      at = r.end();
    }
    REQUIRE(at == u.gradient);
  }
}

TEST_CASE("memory.offload.micro_batches_share_weights_and_have_streams_of_their_own") {
  Policy one = ByBlock::policy, four = one;
  four.batch.accumulation = 4;
  four.precision.gradients = one.precision.gradients = Compute::fp32;
  const StreamPlan a = plan_stream(one), b = plan_stream(four);
  CHECK(a.weights.size == b.weights.size);
  CHECK(a.working.size == b.working.size);
  CHECK(4 * a.streams.size == b.streams.size);
  CHECK(4 * a.kept_slots == b.kept_slots);
}
