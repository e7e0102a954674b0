// What tiny_offloaded does, with all states in memory.
#include "tiny_plain.hpp"

int main(int argc, char** argv) {
  return ctrain::finetune_classification<TinyPlain<false>>(argc, argv);
}
