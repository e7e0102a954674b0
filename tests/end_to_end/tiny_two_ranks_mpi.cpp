// What tiny_one_rank does, on two processes that share the optimizer's state.
#include <ctrain/backend/comm/mpi.hpp>

#include "tiny_ranks.hpp"

int main(int argc, char** argv) {
  return ctrain::finetune_classification<TinyRanks<2>, ctrain::Cpu, ctrain::Mpi>(argc, argv);
}
