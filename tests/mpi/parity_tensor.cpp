// Tensor ranks, alone and with data ranks and pipeline stages: what one rank does but for the order
// in which partial products are added, which fifty steps of Adam magnify where gradients are near
// zero; 3e-5 was seen.
#include "parity.hpp"

using namespace parity;

namespace {

constexpr auto free_order = Deterministic::fixed_layout;
constexpr double tolerance = 1e-3;

}  // namespace

int main(int argc, char** argv) {
  static constexpr Case cases[] = {
      close<Layout{.parallel = {.tensor = 2}, .bits = free_order}>("tensor_2", tolerance),
      close<Layout{
          .parallel = {.tensor = 2, .sequence = true}, .accumulation = 4, .bits = free_order}>(
          "sequence_2_accumulation_4", tolerance),
      close<Layout{.parallel = {.data = 2, .tensor = 2}, .stage = 1, .bits = free_order}>(
          "data_2_tensor_2_zero_1", tolerance),
      close<Layout{
          .parallel = {.tensor = 2, .pipeline = 2}, .accumulation = 4, .bits = free_order}>(
          "tensor_2_pipeline_2_accumulation_4", tolerance),
      close<Layout{.parallel = {.tensor = 2}, .accumulation = 4, .bits = free_order}>(
          "tensor_2_accumulation_4", tolerance),
      close<Layout{.parallel = {.data = 2, .tensor = 2}, .accumulation = 4, .bits = free_order}>(
          "data_2_tensor_2_accumulation_4", tolerance),
      close<Layout{.parallel = {.tensor = 2, .pipeline = 2}, .bits = free_order}>(
          "tensor_2_pipeline_2", tolerance)};
  return parity::main(argc, argv, cases);
}
