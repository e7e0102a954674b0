#include <ctrain/check.hpp>

#include <cstdio>

struct Finetune {
  static constexpr ctrain::Policy policy{.batch = {.packed_tokens = 2048},
                                         .device = ctrain::a100_40gb};
};
static_assert(ctrain::check<Finetune>());

int main() {
  std::puts(ctrain::render(ctrain::PlanOf<Finetune>::plan, Finetune::policy).c_str());
}
