// Without layout-invariant sums: what one rank does but for the order in which gradients are added.
// Differences begin at 2^-24, and fifty steps of Adam magnify them where gradients are near zero;
// 9e-6 was seen.
#include "parity.hpp"

using namespace parity;

namespace {

constexpr auto free_order = Deterministic::fixed_layout;
constexpr double tolerance = 1e-3;

}  // namespace

int main(int argc, char** argv) {
  static constexpr Case cases[] = {
      close<Layout{.parallel = {.data = 2}, .accumulation = 4, .bits = free_order}>(
          "data_2_accumulation_4", tolerance),
      close<Layout{.parallel = {.data = 4}, .stage = 3, .bits = free_order}>("zero_3", tolerance),
      close<Layout{.parallel = {.pipeline = 2}, .accumulation = 4, .bits = free_order}>(
          "pipeline_2_accumulation_4", tolerance),
      close<Layout{.parallel = {.pipeline = 2, .order = zero_bubble},
                   .accumulation = 4,
                   .bits = free_order}>("zero_bubble_2_accumulation_4", tolerance),
      close<Layout{.parallel = {.data = 2, .pipeline = 2, .order = zero_bubble},
                   .stage = 1,
                   .accumulation = 4,
                   .bits = free_order}>("data_2_zero_bubble_2_zero_1_accumulation_4", tolerance)};
  return parity::main(argc, argv, cases);
}
