/// \file  A fixed-capacity list that a compiler can fill: graph, plan and schedule live in these.   floor 0: core
#pragma once

namespace ctrain {

/// At most `Capacity` rows. A plain array, because std::array costs a constant evaluator ten times
/// as much; walk it with `rows[i]` in hot planning loops.
template <class Row, int Capacity> struct Table {
  Row rows[Capacity]{};
  int size = 0;

  static constexpr int capacity = Capacity;

  /// Appends a row and returns its index. Overflow is a compile error in constant evaluation (the
  /// out-of-range write is not a constant) and cannot happen at run time: tables are constexpr.
  constexpr int add(const Row& row) {
    rows[size] = row;
    return size++;
  }
  constexpr const Row& operator[](int i) const { return rows[i]; }
  constexpr Row& operator[](int i) { return rows[i]; }
  constexpr const Row* begin() const { return rows; }
  constexpr const Row* end() const { return rows + size; }
};

}  // namespace ctrain
