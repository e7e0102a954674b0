/// \file  Loops over independent pieces, on OpenMP's threads.   floor 5: backend
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include <omp.h>
#include <sched.h>
#include <unistd.h>

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

/// Whether this process has its cores for itself: it uses every one that it may run on, nobody has
/// said where OpenMP's threads go, and if a launcher has started other ranks on this machine, it
/// has divided the cores among them.
inline bool has_own_cores(int workers) {
  const auto is_set = [](const char* name) { return std::getenv(name) != nullptr; };
  if (is_set("OMP_PROC_BIND") || is_set("OMP_PLACES") || is_set("GOMP_CPU_AFFINITY")) return false;
  cpu_set_t given;
  if (sched_getaffinity(0, sizeof given, &given) != 0 || CPU_COUNT(&given) != workers) return false;
  const bool may_have_neighbours = is_set("OMPI_COMM_WORLD_LOCAL_SIZE") || is_set("PMI_RANK") ||
                                   is_set("PMIX_RANK") || is_set("SLURM_PROCID");
  return !may_have_neighbours || workers < sysconf(_SC_NPROCESSORS_ONLN);
}

/// Keeps each worker but the first on a core of its own, where the process has its cores for
/// itself. The first is the caller's thread: what it starts later would be held on its core too.
inline void keep_workers_apart(int workers) {
  if (workers < 2 || !has_own_cores(workers)) return;
  cpu_set_t given;
  if (sched_getaffinity(0, sizeof given, &given) != 0) return;
#pragma omp parallel num_threads(workers)
  if (int left = omp_get_thread_num(); left > 0)
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &given) && left-- == 0) {
        cpu_set_t own;
        CPU_ZERO(&own);
        CPU_SET(core, &own);
        sched_setaffinity(0, sizeof own, &own);
      }
}

/// Touches the pages of a thread's stack that kernels keep their panels and sums on.
[[gnu::noinline]] inline void touch_stack() {
  constexpr int size = 512 * 1024, page = 4096;
  [[maybe_unused]] volatile char stack[size];
  for (int at = 0; at < size; at += page) stack[at] = 0;
}

/// touch_stack() on each worker: no step faults, not even the first with a long sentence.
inline void touch_stacks(int workers) {
#pragma omp parallel num_threads(workers)
  touch_stack();
}

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
