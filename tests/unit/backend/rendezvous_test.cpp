#include <ctrain/backend/comm/cards.hpp>
#include <ctrain/backend/comm/rendezvous.hpp>

#include <catch2/catch.hpp>

#include <exception>
#include <functional>
#include <optional>

namespace {

using namespace ctrain;

/// A port that nothing uses now.
int free_port() {
  const int socket = ::socket(AF_INET6, SOCK_STREAM, 0);
  sockaddr_in6 at{};
  at.sin6_family = AF_INET6;
  REQUIRE(bind(socket, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
  socklen_t size = sizeof at;
  REQUIRE(getsockname(socket, reinterpret_cast<sockaddr*>(&at), &size) == 0);
  close(socket);
  return ntohs(at.sin6_port);
}

/// Runs body(rank) for all but the `missing` of `ranks`, and returns what they threw, in order.
std::vector<std::string> on_ranks(int ranks, int missing, double deadline,
                                  const std::function<void(Rendezvous&)>& body) {
  const int port = free_port();
  std::vector<std::string> faults(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    if (rank != missing)
      threads.emplace_back([&, rank] {
        try {
          Rendezvous meeting({.rank = rank,
                              .ranks = ranks,
                              .local_rank = rank,
                              .master = "127.0.0.1",
                              .port = port,
                              .deadline = deadline});
          body(meeting);
        } catch (const std::exception& fault) {
          faults[std::size_t(rank)] = fault.what();
        }
      });
  for (std::thread& thread : threads) thread.join();
  return faults;
}

/// Sets variables for one test and clears them after it.
class Environment {
 public:
  explicit Environment(std::vector<std::pair<const char*, const char*>> variables)
      : variables_(std::move(variables)) {
    for (const auto& [name, value] : variables_) setenv(name, value, 1);
  }
  ~Environment() {
    for (const auto& [name, value] : variables_) unsetenv(name);
  }

 private:
  std::vector<std::pair<const char*, const char*>> variables_;
};

}  // namespace

TEST_CASE("comm.rendezvous.gathers_in_rank_order") {
  const auto faults = on_ranks(4, -1, 20, [](Rendezvous& meeting) {
    for (int round = 0; round < 3; ++round) {
      const std::vector<std::byte> mine(std::size_t(meeting.rank() * 1000 + round),
                                        std::byte(meeting.rank()));
      const auto all = meeting.gather(mine);
      if (all.size() != 4) throw std::runtime_error("not four");
      for (std::size_t r = 0; r < all.size(); ++r)
        if (all[r] != std::vector<std::byte>(r * 1000 + std::size_t(round), std::byte(r)))
          throw std::runtime_error("other bytes of rank " + std::to_string(r));
    }
  });
  for (const std::string& fault : faults) CHECK(fault == "");
}

TEST_CASE("comm.rendezvous.a_missing_rank_is_counted") {
  const auto faults = on_ranks(3, 2, 1, [](Rendezvous& meeting) { meeting.gather({}); });
  CHECK(faults[0].find("rank 0: 1 ranks did not come (127.0.0.1, port ") == 0);
  CHECK(faults[1].find("rank 1: rank 0 ended, or said nothing for 1 seconds") == 0);
}

TEST_CASE("comm.rendezvous.a_rank_that_leaves_is_named") {
  const auto faults = on_ranks(3, -1, 20, [](Rendezvous& meeting) {
    if (meeting.rank() != 1) meeting.gather({});
  });
  CHECK(faults[0].find("rank 0: rank 1 ended") == 0);
  CHECK(faults[2].find("rank 2: rank 0 ended") == 0);
}

TEST_CASE("comm.rendezvous.one_rank_needs_no_socket") {
  Rendezvous alone(rank_variables());
  CHECK(alone.gather(std::vector<std::byte>(3)).at(0).size() == 3);
}

TEST_CASE("comm.rendezvous.variables_are_checked") {
  const auto fault = [](std::vector<std::pair<const char*, const char*>> variables) {
    const Environment environment(std::move(variables));
    try {
      rank_variables();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(fault({{"RANK", "1"}}).find("variable WORLD_SIZE: it is not set, but RANK is") == 0);
  CHECK(fault({{"RANK", "4"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "0"}, {"MASTER_PORT", "1"}}) ==
        "variable RANK: '4' is no such number. Give one from 0 to 3");
  CHECK(fault({{"RANK", "1"}, {"WORLD_SIZE", "2x"}}).find("variable WORLD_SIZE: '2x'") == 0);
  const Environment good({{"RANK", "1"},
                          {"WORLD_SIZE", "2"},
                          {"LOCAL_RANK", "1"},
                          {"MASTER_ADDR", "node0"},
                          {"MASTER_PORT", "1234"}});
  const RankVariables v = rank_variables();
  CHECK(
      (v.rank == 1 && v.ranks == 2 && v.local_rank == 1 && v.master == "node0" && v.port == 1234));
}

TEST_CASE("comm.cards.ranks_of_a_host_take_one_each") {
  const std::vector<std::string> hosts{"a", "b", "a", "b", "a"};
  CHECK(card_of(hosts, 0) == 0);
  CHECK(card_of(hosts, 3) == 1);
  CHECK(card_of(hosts, 4) == 2);
  CHECK_NOTHROW(require_a_card_for_each_rank(hosts, 3, 2));
  CHECK_THROWS_WITH(require_a_card_for_each_rank(hosts, 2, 2),
                    "rank 2: host a has 2 cards for 3 ranks. Start at most one rank per card");
}

TEST_CASE("comm.cards.every_rank_tells_its_host") {
  const auto faults = on_ranks(2, -1, 20, [](Rendezvous& meeting) {
    const std::vector<std::string> hosts = hosts_of_ranks(meeting);
    if (hosts.size() != 2 || hosts[0] != hosts[1] || hosts[0].empty())
      throw std::runtime_error("not one host");
    require_a_card_for_each_rank(meeting, 1);
  });
  for (const std::string& fault : faults)
    CHECK(fault.find(" has 1 cards for 2 ranks. Start at most one rank per card") != fault.npos);
}
