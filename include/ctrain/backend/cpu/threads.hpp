/// \file  Loops over independent pieces, on OpenMP's threads.   floor 5: backend
#pragma once

#include <algorithm>
#include <cstdint>

#include <omp.h>

namespace ctrain::cpu {

/// How many threads a call may use. What a piece computes never depends on it.
struct Threads {
  int count = 1;

  /// f(i) for i in [0, pieces). `elements` is the work of all pieces together, in touched numbers:
  /// below about 16,384 waking a thread costs more than it saves.
  template <class F> void each(std::int64_t pieces, std::int64_t elements, F&& f) const {
    each_by_worker(pieces, elements, [&](std::int64_t i, int) { f(i); });
  }

  /// each() of f(i, worker), worker < count.
  template <class F> void each_by_worker(std::int64_t pieces, std::int64_t elements, F&& f) const {
    const int team = team_of(pieces, elements);
    if (team <= 1) {
      for (std::int64_t i = 0; i < pieces; ++i) f(i, 0);
      return;
    }
#pragma omp parallel for num_threads(team) schedule(static)
    for (std::int64_t i = 0; i < pieces; ++i) f(i, omp_get_thread_num());
  }

  /// f(i, worker) for i in [0, pieces) of unlike sizes, worker < at_most.
  template <class F> void each_uneven(std::int64_t pieces, int at_most, F&& f) const {
    const int team = int(std::min<std::int64_t>(std::min(count, at_most), pieces));
    if (team <= 1) {
      for (std::int64_t i = 0; i < pieces; ++i) f(i, 0);
      return;
    }
#pragma omp parallel for num_threads(team) schedule(dynamic)
    for (std::int64_t i = 0; i < pieces; ++i) f(i, omp_get_thread_num());
  }

  /// f(worker) once on each of `team` threads at the same time, if the system has as many.
  template <class F> void together(int team, F&& f) const {
    if (team <= 1) return f(0);
#pragma omp parallel num_threads(team)
    f(omp_get_thread_num());
  }

 private:
  int team_of(std::int64_t pieces, std::int64_t elements) const {
    return elements < 16384 ? 1 : int(std::min<std::int64_t>(count, pieces));
  }
};

/// Within its life, libraries that ask OpenMP (oneDNN) use `count` threads.
class ThreadBound {
 public:
  explicit ThreadBound(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~ThreadBound() { omp_set_num_threads(before_); }
  ThreadBound(const ThreadBound&) = delete;
  ThreadBound& operator=(const ThreadBound&) = delete;

 private:
  int before_;
};

}  // namespace ctrain::cpu
