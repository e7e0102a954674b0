// See compressed.hpp, on four processes.
#include "compressed.hpp"

int main(int argc, char** argv) {
  return compressed::main_of<4>(argc, argv);
}
