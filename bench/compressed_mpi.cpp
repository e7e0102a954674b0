// See compressed.hpp, on two processes.
#include "compressed.hpp"

int main(int argc, char** argv) {
  return compressed::main_of<2>(argc, argv);
}
