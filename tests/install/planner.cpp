#include <ctrain/core/table.hpp>

constexpr int rows() {
  ctrain::Table<int, 2> table;
  table.add(1);
  return table.size;
}
static_assert(rows() == 1);

int main() {
  return 0;
}
