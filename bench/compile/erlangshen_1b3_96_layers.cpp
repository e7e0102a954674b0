// The 1.3B model made 96 layers deep: it costs a compiler what 24 do.
// BUDGET: specializations <= 2300, longest symbol <= 40, object <= 4
#include <ctrain/check.hpp>

constexpr ctrain::ModelShape deep() {
  ctrain::ModelShape m = ctrain::erlangshen_1b3;
  m.layers = 96;
  return m;
}

struct Finetune {
  static constexpr ctrain::Policy policy{.model = deep(),
                                         .batch = {.packed_tokens = 2048},
                                         .precision = {ctrain::Compute::bf16},
                                         .device = ctrain::h200_141gb};
};
static_assert(ctrain::check<Finetune>());
static_assert(ctrain::GraphOf<Finetune>::graph.parameters.count() == 1257371650 + 72 * 50358272LL);

// What a program would use of it at run time.
ctrain::bytes arena() {
  return ctrain::PlanOf<Finetune>::plan.arena();
}
