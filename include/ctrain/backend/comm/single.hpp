/// \file  The communicator of one rank, which has nobody to talk to.   floor 5: backend
#pragma once

#include <ctrain/backend/comm/transfer.hpp>

namespace ctrain {

/// What one member sums or gathers, it has already.
class Single {
 public:
  static constexpr int rank() { return 0; }
  static constexpr int ranks() { return 1; }
  static constexpr Grid grid() { return {}; }
  static constexpr int start(const Transfer&) { return 0; }
  static constexpr void wait(int) {}
  static std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) {
    return {{mine.begin(), mine.end()}};
  }
};

static_assert(Communicator<Single>);

}  // namespace ctrain
