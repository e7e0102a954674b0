/// \file  Walks the table of a streamed step: one thread a lane, the device's on the caller's.   floor 6: trainer
#pragma once

#include <ctrain/schedule/streaming.hpp>

#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <utility>

namespace ctrain {

/// A job starts when the rows it names have ended. One that throws stops all lanes, and walk()
/// throws the same.
class StreamLanes {
 public:
  using Run = std::function<void(const StreamJob&)>;

  explicit StreamLanes(Run run) : run_(std::move(run)) {
    for (int lane = 1; lane < stream_lanes; ++lane)
      threads_[lane] = std::thread([this, lane] { serve(lane); });
  }
  StreamLanes(const StreamLanes&) = delete;
  StreamLanes& operator=(const StreamLanes&) = delete;
  ~StreamLanes() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    for (int lane = 1; lane < stream_lanes; ++lane) threads_[lane].join();
  }

  /// Every row of the table; returns when all lanes are through.
  void walk(std::span<const StreamJob> table) {
    {
      const std::lock_guard lock(mutex_);
      table_ = table;
      for (int& row : ended_) row = -1;
      fault_ = nullptr;
      at_work_ = stream_lanes;
      ++walks_;
    }
    changed_.notify_all();
    walk_lane(0);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return at_work_ == 0; });
    if (fault_) std::rethrow_exception(fault_);
  }

  /// Seconds in which a lane ran jobs, of all walks.
  double busy(StreamLane lane) const { return busy_[int(lane)]; }

 private:
  void serve(int lane) {
    for (long seen = 0;;) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return ends_ || walks_ != seen; });
        if (ends_) return;
        seen = walks_;
      }
      walk_lane(lane);
    }
  }

  void walk_lane(int lane) {
    try {
      for (int row = 0; row < int(table_.size()); ++row) {
        const StreamJob& job = table_[std::size_t(row)];
        if (int(job.lane) != lane) continue;
        if (!wait_for(job)) break;
        const auto start = std::chrono::steady_clock::now();
        run_(job);
        busy_[lane] +=
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        {
          const std::lock_guard lock(mutex_);
          ended_[lane] = row;
        }
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!fault_) fault_ = std::current_exception();
    }
    {
      const std::lock_guard lock(mutex_);
      --at_work_;
    }
    changed_.notify_all();
  }

  /// False: another lane has failed.
  bool wait_for(const StreamJob& job) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      if (fault_) return true;
      for (const std::int32_t row : job.after)
        if (row >= 0 && ended_[int(table_[std::size_t(row)].lane)] < row) return false;
      return true;
    });
    return !fault_;
  }

  Run run_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::span<const StreamJob> table_;
  int ended_[stream_lanes]{};
  int at_work_ = 0;
  long walks_ = 0;
  bool ends_ = false;
  std::exception_ptr fault_;
  double busy_[stream_lanes]{};
  std::thread threads_[stream_lanes];
};

}  // namespace ctrain
