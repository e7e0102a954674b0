// Ranks as threads of a test, and what each of them ended with.
#pragma once

#include <ctrain/backend/comm/threads.hpp>

#include <random>
#include <string>
#include <thread>
#include <vector>

namespace ranks {

using namespace ctrain;

/// A link that now and then says that a message is still open, though it is not: ranks meet in
/// other orders in every run.
class Hesitant {
 public:
  using Message = int;
  Hesitant(ThreadHub& hub, int rank, unsigned seed) : link_(hub, rank), dice_(seed) {}

  int rank() const { return link_.rank(); }
  int ranks() const { return link_.ranks(); }
  int send(int peer, int tag, std::span<const std::byte> data) {
    return link_.send(peer, tag, data);
  }
  int receive(int peer, int tag, std::span<std::byte> space) {
    return link_.receive(peer, tag, space);
  }
  MessageState state(int message) {
    return dice_() % 4 != 0 ? MessageState::open : link_.state(message);
  }
  void cancel(int message) { link_.cancel(message); }
  static void abandon() {}

 private:
  ThreadLink link_;
  std::minstd_rand dice_;
};

/// f(communicator) on a thread for each rank; what each threw, "" where it threw nothing.
template <class L = ThreadLink, class F, class... Arguments>
std::vector<std::string> run(const Grid& grid, double deadline, F&& f, Arguments... arguments) {
  ThreadHub hub(grid.ranks());
  std::vector<std::string> errors(grid.ranks());
  std::vector<std::thread> threads;
  for (int r = 0; r < grid.ranks(); ++r)
    threads.emplace_back([&, r] {
      try {
        Transfers<L> communicator(grid, deadline, hub, r, arguments...);
        f(communicator);
      } catch (const std::exception& error) {
        errors[r] = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}

inline bool none_failed(const std::vector<std::string>& errors) {
  for (const std::string& error : errors)
    if (!error.empty()) return false;
  return true;
}

}  // namespace ranks
