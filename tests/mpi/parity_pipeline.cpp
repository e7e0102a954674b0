// Pipeline stages, alone and with data ranks: the bits of one rank.
#include "parity.hpp"

using namespace parity;

int main(int argc, char** argv) {
  static constexpr Case cases[] = {
      bits<Layout{.parallel = {.pipeline = 2}}>("pipeline_2"),
      bits<Layout{.parallel = {.pipeline = 2}, .accumulation = 4}>("pipeline_2_accumulation_4"),
      bits<Layout{.parallel = {.data = 2, .pipeline = 2}}>("data_2_pipeline_2"),
      bits<Layout{.parallel = {.data = 2, .pipeline = 2}, .stage = 1, .accumulation = 4}>(
          "data_2_pipeline_2_zero_1_accumulation_4")};
  return parity::main(argc, argv, cases);
}
