// Tensor ranks together do what one rank does, with and without rows split. Ranks are threads.
#include <catch2/catch.hpp>

#include "ranks.hpp"

namespace {

using namespace ctrain;

template <int Tensor, bool Sequence, NormPlacement Norm = NormPlacement::pre_layer_norm,
          Compute Type = Compute::fp32, Recompute Again = Recompute::none,
          Parallel Others = Parallel{}, int Stage = 0>
struct On {
  static constexpr Policy policy{.model = {.norm = Norm,
                                           .vocabulary = 256,
                                           .positions = 48,
                                           .layers = 2,
                                           .hidden = 64,
                                           .heads = 4,
                                           .feed_forward = 128},
                                 .batch = {.packed_tokens = 128,
                                           .sentences = 6,
                                           .length = 48,
                                           .accumulation = 4 / Others.data},
                                 .precision = {.compute = Type},
                                 .weights = Stage == 3 ? WeightLayout::plain : WeightLayout::packed,
                                 .recompute = Again,
                                 .parallel = {.data = Others.data,
                                              .tensor = Tensor,
                                              .pipeline = Others.pipeline,
                                              .sequence = Sequence,
                                              .order = Others.order},
                                 .zero = {.stage = Stage, .bucket = 64 * KiB},
                                 .device = host_memory(64 * MiB, 1)};
};

constexpr auto pre = NormPlacement::pre_layer_norm, post = NormPlacement::post_layer_norm;
constexpr auto fp32 = Compute::fp32, bf16_matrices = Compute::bf16;
constexpr auto full = Recompute::full, none = Recompute::none;

template <class P> const ranks::Outcome& outcome(int steps) {
  static std::map<int, ranks::Outcome> known;
  if (!known.contains(steps)) known[steps] = ranks::train<P>(steps);
  return known[steps];
}

ranks::Tensors moments(const ranks::Tensors& all) {
  ranks::Tensors some;
  for (const auto& [name, values] : all)
    if (name.starts_with("first_moment")) some[name] = values;
  return some;
}

/// Largest relative differences from one rank, in the Euclidean norm of a tensor.
struct Tolerance {
  double gradients = 0;  // of the first step, and its norm
  double tensors = 0;    // weights and moments after 6 steps, where Adam has magnified them
  double losses = 0;     // of any step
};
/// Sums go in another order, where a rounding is 2^-24.
constexpr Tolerance single{3e-6, 1e-4, 1e-6};
/// Every summand of an exchange is rounded to 2^-9, as every activation is: ranks are about as far
/// from one rank as that is from fp32 (0.01, 0.09 and 6e-5).
constexpr Tolerance half{3e-2, 0.3, 5e-4};

/// The first step's moments are the gradients of all micro-batches, clipped, times 1 - beta1.
template <class P, class One> void follows_one_rank(const Tolerance& within) {
  INFO("tensor " << P::policy.parallel.tensor << (P::policy.parallel.sequence ? " rows split" : "")
                 << ", data " << P::policy.parallel.data << ", pipeline "
                 << P::policy.parallel.pipeline << ", stage " << P::policy.zero.stage);
  const ranks::Outcome &one = outcome<One>(1), &many = outcome<P>(1);
  CHECK(many.norms.at(0) == Approx(one.norms.at(0)).epsilon(within.gradients));
  CHECK(ranks::difference(moments(one.tensors), moments(many.tensors)) < within.gradients);

  const ranks::Outcome &one_later = outcome<One>(6), &many_later = outcome<P>(6);
  CHECK(ranks::difference(one_later.tensors, many_later.tensors) < within.tensors);
  REQUIRE(many_later.losses.size() == 6);
  for (std::size_t i = 0; i < 6; ++i)
    CHECK(many_later.losses[i] == Approx(one_later.losses[i]).epsilon(within.losses));
  CHECK(many_later.evaluated.micro_batches == 5);
  CHECK(many_later.evaluated.sentences == one_later.evaluated.sentences);
  CHECK(many_later.evaluated.loss() == Approx(one_later.evaluated.loss()).epsilon(within.losses));
  CHECK(many_later.arena_is_the_plan);
}

}  // namespace

TEST_CASE("trainer.tensor_ranks.follow_one_rank") {
  using One = On<1, false>;
  follows_one_rank<On<2, false>, One>(single);
  follows_one_rank<On<4, false>, One>(single);
  follows_one_rank<On<2, true>, One>(single);
  follows_one_rank<On<4, true>, One>(single);
}

TEST_CASE("trainer.tensor_ranks.of_bert_follow_one_rank") {
  using One = On<1, false, post>;
  follows_one_rank<On<2, false, post>, One>(single);
  follows_one_rank<On<4, true, post>, One>(single);
}

TEST_CASE("trainer.tensor_ranks.in_bf16_follow_one_rank") {
  using One = On<1, false, pre, bf16_matrices>;
  follows_one_rank<On<2, false, pre, bf16_matrices>, One>(half);
  follows_one_rank<On<4, true, pre, bf16_matrices>, One>(half);
  using Bert = On<1, false, post, bf16_matrices>;
  follows_one_rank<On<4, false, post, bf16_matrices>, Bert>(half);
  follows_one_rank<On<2, true, post, bf16_matrices>, Bert>(half);
}

TEST_CASE("trainer.tensor_ranks.compute_again_what_one_rank_computes_again") {
  follows_one_rank<On<2, false, pre, fp32, full>, On<1, false, pre, fp32, full>>(single);
  follows_one_rank<On<4, true, pre, fp32, full>, On<1, false, pre, fp32, full>>(single);
  follows_one_rank<On<2, true, post, fp32, full>, On<1, false, post, fp32, full>>(single);
}

TEST_CASE("trainer.tensor_ranks.join_data_ranks_zero_and_pipelines") {
  using One = On<1, false>;
  constexpr Parallel data{.data = 2}, stages{.pipeline = 2}, both{.data = 2, .pipeline = 2};
  follows_one_rank<On<2, false, pre, fp32, none, data>, One>(single);
  follows_one_rank<On<2, true, pre, fp32, none, data, 1>, One>(single);
  follows_one_rank<On<2, true, pre, fp32, none, data, 2>, One>(single);
  follows_one_rank<On<2, true, pre, fp32, none, data, 3>, One>(single);
  follows_one_rank<On<2, true, pre, fp32, none, stages>, One>(single);
  follows_one_rank<On<2, true, pre, fp32, none, both, 1>, One>(single);
}
