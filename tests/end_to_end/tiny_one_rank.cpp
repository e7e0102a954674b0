// What tiny_two_ranks_mpi does, on one rank.
#include "tiny_ranks.hpp"

int main(int argc, char** argv) {
  return ctrain::finetune_classification<TinyRanks<1>>(argc, argv);
}
