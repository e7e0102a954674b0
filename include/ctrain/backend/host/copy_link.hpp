/// \file  Copies between host and device memory of one machine, at a rate that can be limited.   floor 5: backend
#pragma once

#include <ctrain/core/units.hpp>

#include <chrono>
#include <cstddef>
#include <cstring>
#include <thread>

namespace ctrain {

/// One direction of a link. A host's device arena is as fast as its memory; `bytes_per_second` > 0
/// makes a copy take as long as a slower link would.
class CopyLink {
 public:
  explicit CopyLink(double bytes_per_second = 0) : rate_(bytes_per_second) {}

  void copy(std::byte* to, const std::byte* from, bytes size) {
    using namespace std::chrono;
    const auto now = steady_clock::now();
    std::memcpy(to, from, std::size_t(size));
    carried_ += size;
    if (rate_ <= 0) return;
    // Where the link is busy, the next copy follows without a gap: sleeping late does not add up.
    if (free_ + milliseconds(1) < now) free_ = now;
    free_ += duration_cast<steady_clock::duration>(duration<double>(double(size) / rate_));
    std::this_thread::sleep_until(free_);
  }
  bytes carried() const { return carried_; }

 private:
  double rate_ = 0;
  bytes carried_ = 0;
  std::chrono::steady_clock::time_point free_{};
};

}  // namespace ctrain
