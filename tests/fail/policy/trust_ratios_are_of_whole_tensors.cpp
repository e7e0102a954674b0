// ERRORS: 4
// EXPECT: error: .*invalid policy: LAMB's trust ratio is of a whole tensor's norms
// EXPECT: rule::trust_ratios_are_of_whole_tensors<(true, 1, 1>|.*ZeroStage=1, Tensor=1\])
// EXPECT: rule::trust_ratios_are_of_whole_tensors<(true, 2, 1>|.*ZeroStage=2, Tensor=1\])
// EXPECT: rule::trust_ratios_are_of_whole_tensors<(true, 3, 1>|.*ZeroStage=3, Tensor=1\])
// EXPECT: rule::trust_ratios_are_of_whole_tensors<(true, 0, 2>|.*ZeroStage=0, Tensor=2\])
#include <ctrain/policy/presets.hpp>
#include <ctrain/policy/rules.hpp>

template <int ZeroStage, int Tensor> struct Broken {
  static constexpr ctrain::Policy policy{
      .batch = {.packed_tokens = 2048},
      .weights = ZeroStage == 3 ? ctrain::WeightLayout::plain : ctrain::WeightLayout::packed,
      .optimizer = {.kind = ctrain::OptimizerKind::lamb},
      .parallel = {.data = 2, .tensor = Tensor},
      .zero = {.stage = ZeroStage},
      .device = ctrain::a100_40gb};
};
static_assert(sizeof(ctrain::CheckPolicy<Broken<1, 1>>));
static_assert(sizeof(ctrain::CheckPolicy<Broken<2, 1>>));
static_assert(sizeof(ctrain::CheckPolicy<Broken<3, 1>>));
static_assert(sizeof(ctrain::CheckPolicy<Broken<0, 2>>));
