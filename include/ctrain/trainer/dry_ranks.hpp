/// \file  The communicator of a dry run: it lists transfers and events, and moves nothing.   floor 6: trainer
#pragma once

#include <ctrain/backend/comm/transfer.hpp>
#include <ctrain/backend/cuda/dry_run.hpp>
#include <ctrain/schedule/collectives.hpp>

#include <string>
#include <utility>

namespace ctrain {

/// Models Communicator as one rank of many that are not there. What it lists is what Nccl does: a
/// lane is a stream; an event makes it wait for the backend's, another the backend's for it.
class DryRanks {
 public:
  DryRanks(DryRun& backend, int rank, Grid grid) : backend_(backend), rank_(rank), grid_(grid) {}

  int rank() const { return rank_; }
  int ranks() const { return grid_.ranks(); }
  Grid grid() const { return grid_; }

  int start(const Transfer& t) {
    const std::string lane = lane_of(t);
    const bool collective = t.kind == EventKind::collective;
    backend_.add({.kind = DeviceWork::Kind::event, .what = lane + " waits for the backend's"});
    backend_.add({.kind = DeviceWork::Kind::transfer,
                  .what = lane + ": " + t.name.what + ", " + std::to_string(t.size) + " bytes",
                  .bytes_moved = collective
                                     ? double(bytes_sent(t.collective, grid_.size(t.group), t.size))
                                 : t.kind == EventKind::send ? double(t.size)
                                                             : 0.0});
    lanes_.push_back(lane);
    return int(lanes_.size()) - 1;
  }
  void wait(int ticket) {
    backend_.add({.kind = DeviceWork::Kind::event,
                  .what = "the backend's stream waits for " + lanes_[std::size_t(ticket)]});
  }
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) const {
    return std::vector<std::vector<std::byte>>(std::size_t(ranks()), {mine.begin(), mine.end()});
  }

 private:
  std::string lane_of(const Transfer& t) const {
    constexpr const char* groups[] = {"data", "tensor", "model", "world"};
    if (t.kind == EventKind::collective) return std::string("stream ") + groups[int(t.group)];
    return (t.kind == EventKind::send ? "stream to rank " : "stream from rank ") +
           std::to_string(t.peer);
  }

  DryRun& backend_;
  int rank_;
  Grid grid_;
  std::vector<std::string> lanes_;  // of every transfer so far
};

static_assert(Communicator<DryRanks>);

}  // namespace ctrain
