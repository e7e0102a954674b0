// What tiny_resident does, with all states in a file.
#include "tiny_plain.hpp"

int main(int argc, char** argv) {
  return ctrain::finetune_classification<TinyPlain<true>>(argc, argv);
}
