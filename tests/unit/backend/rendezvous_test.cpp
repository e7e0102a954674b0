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
  CHECK(faults[2].find("rank 2: rank 1 ended") == 0);
}

TEST_CASE("comm.rendezvous.ranks_ask_around_for_who_is_gone") {
  std::vector<std::string> answers(4);
  on_ranks(4, -1, 20, [&](Rendezvous& meeting) {
    const int rank = meeting.rank();
    if (rank != 2) answers[std::size_t(rank)] = meeting.ask_around("event 7", 2);
  });
  for (const int rank : {0, 1, 3}) CHECK(answers[rank] == "rank 2 ended, or said nothing");

  const auto all_there = on_ranks(3, -1, 20, [](Rendezvous& meeting) {
    if (!meeting.ask_around("event 7", 5).empty()) throw std::runtime_error("who?");
  });
  for (const std::string& fault : all_there) CHECK(fault == "");
}

TEST_CASE("comm.rendezvous.who_gathers_hears_of_trouble") {
  const auto faults = on_ranks(3, -1, 20, [](Rendezvous& meeting) {
    if (meeting.rank() == 1)
      meeting.ask_around("rank 1, event 7", 5);
    else
      meeting.gather({});
  });
  CHECK(faults[0].find("rank 0: rank 1 has given up at rank 1, event 7.") == 0);
  CHECK(faults[1] == "");
  CHECK(faults[2].find("rank 2: rank 1 has given up at rank 1, event 7.") == 0);
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
  CHECK(fault({{"RANK", "1"}})
            .find("variable WORLD_SIZE: it is not set, but others of a launcher's are") == 0);
  CHECK(fault({{"RANK", "4"}, {"WORLD_SIZE", "4"}, {"MASTER_PORT", "1"}}) ==
        "variable RANK: '4' is no such number. Give one from 0 to 3");
  CHECK(fault({{"RANK", "1"}, {"WORLD_SIZE", "2x"}}).find("variable WORLD_SIZE: '2x'") == 0);
}

TEST_CASE("comm.rendezvous.launchers_are_understood") {
  {
    const Environment torchrun(
        {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node0"}, {"MASTER_PORT", "1234"}});
    const RankVariables v = rank_variables();
    CHECK((v.rank == 1 && v.ranks == 2 && v.master == "node0" && v.port == 1234));
  }
  {
    const Environment mpirun({{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "4"}});
    const RankVariables v = rank_variables();
    CHECK((v.rank == 3 && v.ranks == 4 && v.master == "127.0.0.1" && v.port == 29500));
  }
  const std::vector<std::pair<const char*, const char*>> no_srun{{"SLURM_PROCID", "0"}};
  const Environment batch_script(no_srun);  // one rank
  CHECK(rank_variables().ranks == 1);
}

TEST_CASE("comm.rendezvous.a_policy_has_its_number_of_ranks") {
  const Environment two({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "1"}});
  CHECK_THROWS_WITH(Rendezvous({4, 1, 1}, 1.0, 4),
                    "ranks: 2 were started, but the policy splits a step over 4 (parallel). Start "
                    "it with: torchrun --no-python --nproc-per-node 4 PROGRAM, or mpirun -n 4 "
                    "PROGRAM");
}

TEST_CASE("comm.cards.ranks_of_a_host_take_one_each") {
  const Seat a{"a", {"p", "q", "r"}}, b{"b", {"p", "q"}};
  const std::vector<Seat> seats{a, b, a, b, a};
  CHECK(card_of(seats, 0) == 0);
  CHECK(card_of(seats, 3) == 1);
  CHECK(card_of(seats, 4) == 2);
  const Seat small{"a", {"p", "q"}};
  const std::vector<Seat> crowded{small, b, small, b, small};
  for (const int rank : {0, 2, 4})  // all of that host, so that none waits for another
    CHECK_THROWS_WITH(card_of(crowded, rank), "rank " + std::to_string(rank) +
                                                  ": host a has 2 cards for 3 ranks. Start at "
                                                  "most one rank per card");
  CHECK(card_of(crowded, 3) == 1);
}

TEST_CASE("comm.cards.a_launcher_may_show_each_rank_its_own") {
  const std::vector<Seat> seats{{"a", {"p"}}, {"a", {"q"}}, {"a", {"p", "q", "r"}}};
  CHECK(card_of(seats, 0) == 0);
  CHECK(card_of(seats, 1) == 0);
  CHECK(card_of(seats, 2) == 2);
}

TEST_CASE("comm.cards.every_rank_tells_its_host") {
  const auto faults = on_ranks(2, -1, 20, [](Rendezvous& meeting) {
    const std::vector<Seat> seats = seats_of_ranks(meeting, {"p", "q"});
    if (seats.size() != 2 || seats[0].host != seats[1].host || seats[0].host.empty())
      throw std::runtime_error("not one host");
    if (seats[1].cards != std::vector<std::string>{"p", "q"} ||
        card_of(seats, meeting.rank()) != meeting.rank())
      throw std::runtime_error("not one card each");
    card_of(seats_of_ranks(meeting, {"p"}), meeting.rank());
  });
  for (const std::string& fault : faults)
    CHECK(fault.find(" has 1 card for 2 ranks. Start at most one rank per card") != fault.npos);
}
