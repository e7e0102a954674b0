// Linked with all_headers.cpp, which includes the same headers: a function or variable that is not
// inline is then defined twice, and the program does not link.
#include "all_headers.cpp"

int main() {}
