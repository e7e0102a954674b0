/// \file  Ranks that are processes, started by mpirun or srun: messages over MPI.   floor 5: backend
#pragma once

#include <ctrain/backend/comm/transfers.hpp>

#include <cerrno>
#include <cstdlib>

#include <mpi.h>

namespace ctrain {

/// The line that starts a program on that many ranks.
inline std::string launch_line(int ranks) {
  return "mpirun -n " + std::to_string(ranks) + " " + program_invocation_name + " (or srun -n " +
         std::to_string(ranks) + "; as root: mpirun --allow-run-as-root)";
}

/// Messages over a communicator of MPI's own. Initialises MPI if nobody has, and then finalises it,
/// unless it was abandoned: then the process is to exit with a status that is not 0, and the
/// launcher ends the others. One thread at a time may call it.
class MpiLink {
 public:
  struct Message {
    MPI_Request request = MPI_REQUEST_NULL;
    int size = 0;
    int from = -1;  // of a receive
  };

  /// Throws on every rank where not `ranks` of them were started together.
  explicit MpiLink(int ranks) {
    int initialized = 0, level = 0;
    MPI_Initialized(&initialized);
    owns_mpi_ = !initialized;
    if (owns_mpi_)
      MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level);
    else
      MPI_Query_thread(&level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks_);
    if (level < MPI_THREAD_SERIALIZED || ranks_ != ranks) {
      finalize();
      throw level < MPI_THREAD_SERIALIZED ? no_threads() : wrong_number(ranks);
    }
    MPI_Comm_dup(MPI_COMM_WORLD, &world_);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(world_, MPI_ERRORS_RETURN);
  }
  ~MpiLink() {
    if (abandoned_) return;
    MPI_Comm_free(&world_);
    finalize();
  }
  MpiLink(const MpiLink&) = delete;
  MpiLink& operator=(const MpiLink&) = delete;

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }

  Message send(int peer, int tag, std::span<const std::byte> data) {
    Message m{.size = int(data.size())};
    check(MPI_Isend(data.data(), m.size, MPI_BYTE, peer, tag, world_, &m.request), peer);
    return m;
  }
  Message receive(int peer, int tag, std::span<std::byte> space) {
    Message m{.size = int(space.size()), .from = peer};
    check(MPI_Irecv(space.data(), m.size, MPI_BYTE, peer, tag, world_, &m.request), peer);
    return m;
  }
  MessageState state(Message& m) {
    int done = 0, size = m.size;
    MPI_Status status{};
    const int result = MPI_Test(&m.request, &done, &status);
    if (result == MPI_SUCCESS && !done) return MessageState::open;
    if (result == MPI_SUCCESS && m.from >= 0) MPI_Get_count(&status, MPI_BYTE, &size);
    if (size != m.size || kind_of(result) == MPI_ERR_TRUNCATE)
      throw Error("rank " + std::to_string(rank_),
                  "rank " + std::to_string(m.from) + " counts other bytes than " +
                      std::to_string(m.size) + " in a message",
                  "Start all ranks with the same program and flags");
    return result == MPI_SUCCESS ? MessageState::ended : MessageState::lost;
  }
  /// A receive is taken back; what is being sent MPI ends on its own.
  static void cancel(Message& m) {
    if (m.request == MPI_REQUEST_NULL) return;
    int done = 0;
    if (m.from < 0) {
      MPI_Request_free(&m.request);
    } else if (MPI_Cancel(&m.request) == MPI_SUCCESS) {
      MPI_Test(&m.request, &done, MPI_STATUS_IGNORE);
    }
  }
  void abandon() {
    if (!std::exchange(abandoned_, true)) std::atexit(leave_last);
  }

 private:
  static int kind_of(int result) {
    int kind = MPI_SUCCESS;
    MPI_Error_class(result, &kind);
    return kind;
  }
  static void check(int result, int peer) {
    if (result != MPI_SUCCESS) throw PeerLost{peer};
  }
  void finalize() const {
    if (owns_mpi_) MPI_Finalize();
  }
  /// A launcher kills all ranks when the first one ends: the others get a moment to say why.
  static void leave_last() {
    std::fflush(nullptr);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }

  static Error no_threads() {
    return {"MPI", "it allows no thread but the first to communicate",
            "Install an MPI that offers MPI_THREAD_SERIALIZED"};
  }
  /// How many ranks a launcher says that it has started; 1 if there was none.
  static int launched() {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
      if (const char* value = std::getenv(name)) return std::atoi(value);
    return 1;
  }
  Error wrong_number(int wanted) const {
    const std::string policy =
        "the policy splits a step over " + std::to_string(wanted) + " ranks (parallel)";
    if (ranks_ == 1 && launched() > 1)
      return {"MPI",
              std::to_string(launched()) +
                  " processes were started, but each by itself, because MPI and the launcher do "
                  "not know each other, and " +
                  policy,
              "Start it with srun --mpi=pmix, or: " + launch_line(wanted)};
    return {"MPI",
            std::to_string(ranks_) + (ranks_ == 1 ? " rank was" : " ranks were") +
                " started, but " + policy,
            "Start it with: " + launch_line(wanted)};
  }

  MPI_Comm world_ = MPI_COMM_NULL;
  int rank_ = 0, ranks_ = 1;
  bool owns_mpi_ = false, abandoned_ = false;
};

static_assert(Link<MpiLink>);

/// The communicator of a rank that is a process: Mpi(grid, deadline, grid.ranks()).
using Mpi = Transfers<MpiLink>;

static_assert(Communicator<Mpi>);

}  // namespace ctrain
