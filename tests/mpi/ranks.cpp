// ranks CASE RANKS DEADLINE: what one process of tests/mpi/check.sh does.
#include <ctrain/backend/comm/agreement.hpp>
#include <ctrain/backend/comm/mpi.hpp>
#include <ctrain/trainer/dry_ranks.hpp>

#include <csignal>
#include <cstdio>
#include <functional>
#include <map>
#include <string_view>

#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace ctrain;

void sum(Mpi& communicator, int index) {
  std::vector<float> data(300000, float(communicator.rank() + 1));
  communicator.wait(communicator.start({.data = data.data(),
                                        .size = bytes(data.size() * sizeof(float)),
                                        .name = {index, 0, "all_reduce data bucket 1"}}));
  const float expected = float(communicator.ranks() * (communicator.ranks() + 1) / 2);
  for (const float element : data)
    if (element != expected) throw Error("sum", "is wrong", "Mend the engine");
}

/// Ranks with a card each meet over MPI, too: NcclOver<Mpi> is this over NCCL. Compiling it is the
/// test; MPI can be started once only.
[[maybe_unused]] void meet_over_mpi(DryRun& backend, const Grid& grid) {
  DeviceRanks<DryLibrary, Mpi> ranks(grid, {}, DryLibrary(backend), grid, 2.0, grid.ranks());
  ranks.serve(backend);
  ranks.wait(ranks.start({.size = 64}));
}

/// Collectives of every kind, messages around a ring, and values of all ranks, many times.
void everything(Mpi& communicator) {
  const int me = communicator.rank(), n = communicator.ranks();
  for (int round = 0; round < 20; ++round) {
    std::vector<float> gathered(std::size_t(40000 * n + round), -1.0f);
    const bytes size = bytes(gathered.size() * sizeof(float));
    const auto begin = [&](int i) {
      return std::size_t(chunk_begin(size, DType::fp32, n, i)) / sizeof(float);
    };
    std::fill(gathered.begin() + long(begin(me)), gathered.begin() + long(begin(me + 1)),
              float(me * 100 + round));
    float out = float(me), in = -1;
    const int tickets[] = {
        communicator.start({.collective = Collective::all_gather,
                            .group = Group::world,
                            .data = gathered.data(),
                            .size = size}),
        communicator.start(
            {.kind = EventKind::send, .peer = (me + 1) % n, .data = &out, .size = sizeof out}),
        communicator.start({.kind = EventKind::receive,
                            .peer = (me + n - 1) % n,
                            .data = &in,
                            .size = sizeof in})};
    sum(communicator, round);
    for (const int ticket : tickets) communicator.wait(ticket);
    if (in != float((me + n - 1) % n)) throw Error("ring", "is wrong", "Mend the engine");
    for (int i = 0; i < n; ++i)
      for (std::size_t e = begin(i); e < begin(i + 1); ++e)
        if (gathered[e] != float(i * 100 + round))
          throw Error("all_gather", "is wrong", "Mend the engine");
  }
  agree(communicator, {{"the schedule", 42}});
  if (me == 0) std::printf("all right\n");
}

/// The last rank gets a signal between two sums.
void signalled(Mpi& communicator, int signal) {
  sum(communicator, 16);
  if (communicator.rank() == communicator.ranks() - 1) std::raise(signal);
  sum(communicator, 17);
}

/// All are stopped for longer than the deadline while they wait for the last, and go on.
void paused(Mpi& communicator, double deadline) {
  sum(communicator, 16);
  const pid_t me = getpid();
  if (fork() == 0) {
    usleep(300000);
    kill(me, SIGSTOP);
    usleep(useconds_t(1.5e6 * deadline));
    kill(me, SIGCONT);
    _exit(0);
  }
  if (communicator.rank() == communicator.ranks() - 1) usleep(600000);
  sum(communicator, 17);
  std::printf("rank %d is right\n", communicator.rank());
  wait(nullptr);
}

}  // namespace

int main(int, char** arguments) {
  const std::map<std::string_view, std::function<void(Mpi&)>> cases = {
      {"everything", everything},
      {"stopped", [](Mpi& c) { signalled(c, SIGSTOP); }},
      {"killed", [](Mpi& c) { signalled(c, SIGKILL); }},
      {"paused", [&](Mpi& c) { paused(c, std::atof(arguments[3])); }},
      {"failed",
       [](Mpi& c) {
         if (c.rank() == 1) throw Error("disk", "is full", "Make room");
         sum(c, 17);
       }},
      {"disagreeing", [](Mpi& c) {
         agree(c, {{"the schedule", c.rank() == 1 ? 0xbeefu : 0xcafeu}});
       }}};
  try {
    const int ranks = std::atoi(arguments[2]);
    Mpi communicator({ranks, 1, 1}, std::atof(arguments[3]), ranks);
    std::printf("rank %d has begun\n", communicator.rank());
    cases.at(arguments[1])(communicator);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
