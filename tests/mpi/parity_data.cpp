// Data ranks and every stage of ZeRO: the bits of one rank.
#include "parity.hpp"

using namespace parity;

int main(int argc, char** argv) {
  static constexpr Case cases[] = {
      bits<Layout{.parallel = {.data = 2}}>("data_2"),
      bits<Layout{.parallel = {.data = 2}, .accumulation = 4}>("data_2_accumulation_4"),
      bits<Layout{.parallel = {.data = 4}}>("data_4"),
      bits<Layout{.parallel = {.data = 4}, .accumulation = 4}>("data_4_accumulation_4"),
      bits<Layout{.parallel = {.data = 2}, .stage = 1}>("zero_1"),
      bits<Layout{.parallel = {.data = 2}, .stage = 1, .accumulation = 4}>("zero_1_accumulation_4"),
      bits<Layout{.parallel = {.data = 2}, .stage = 2}>("zero_2"),
      bits<Layout{.parallel = {.data = 4}, .stage = 2, .accumulation = 4}>("zero_2_accumulation_4"),
      bits<Layout{.parallel = {.data = 4}, .stage = 3}>("zero_3"),
      bits<Layout{.parallel = {.data = 2}, .stage = 3, .accumulation = 4}>(
          "zero_3_accumulation_4")};
  return parity::main(argc, argv, cases);
}
