/// \file  The steps that benches time: two blocks of the 1.3B model, and the mini model.
#pragma once

#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/trainer.hpp>

namespace shapes {

using namespace ctrain;

inline constexpr int sentence = 32;

/// Two blocks of the 1.3B model with next to no vocabulary, so that the blocks are what is timed.
inline constexpr ModelShape two_blocks = [] {
  ModelShape m = erlangshen_1b3;
  m.layers = 2;
  m.vocabulary = 64;
  return m;
}();

constexpr Policy of(const ModelShape& model, int tokens, Compute compute) {
  return {.model = model,
          .batch = {.packed_tokens = tokens, .sentences = tokens / sentence, .length = sentence},
          .precision = {.compute = compute},
          .device = host_memory(16 * GiB)};
}
template <int Tokens, Compute C> struct Blocks {
  static constexpr Policy policy = of(two_blocks, Tokens, C);
};
template <Compute C> struct Mini {
  static constexpr Policy policy = of(megatron_bert_mini, 2048, C);
};

/// Erlangshen-MegatronBert-1.3B in 18 GiB, four pairs of AFQMC a step: 144 rows.
struct FourPairs {
  static constexpr Policy policy{
      .model = erlangshen_1b3,
      .batch = {.packed_tokens = 512, .sentences = 4, .length = 128},
      .precision = {.compute = Compute::bf16, .gradients = Compute::bf16},
      .weights = WeightLayout::plain,
      .optimizer = {.learning_rate = 1e-5f, .weight_decay = 0.1f, .clip = 1.0f},
      .device = host_memory(18 * GiB, 2)};
};

/// f.template operator()<P>(name) for every shape but the whole 1.3B model's.
void each(auto&& f) {
  const auto all = [&]<Compute C>(const std::string& type) {
    f.template operator()<Blocks<128, C>>("blocks-128-" + type);
    f.template operator()<Blocks<512, C>>("blocks-512-" + type);
    f.template operator()<Blocks<2048, C>>("blocks-2048-" + type);
    f.template operator()<Mini<C>>("mini-2048-" + type);
  };
  all.template operator()<Compute::bf16>("bf16");
  all.template operator()<Compute::fp32>("fp32");
}

}  // namespace shapes
