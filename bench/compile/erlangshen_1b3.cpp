// The plan of the 1.3B model with all its proofs. Numbers of floors 0 to 3 only: no package.
// BUDGET: specializations <= 2300, longest symbol <= 40, object <= 4
#include <ctrain/check.hpp>

struct Finetune {
  static constexpr ctrain::Policy policy{.model = ctrain::erlangshen_1b3,
                                         .batch = {.packed_tokens = 2048},
                                         .precision = {ctrain::Compute::bf16},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Finetune>());
static_assert(ctrain::GraphOf<Finetune>::graph.parameters.count() == 1257371650);

// What a program would use of it at run time.
ctrain::bytes arena() {
  return ctrain::PlanOf<Finetune>::plan.arena();
}
