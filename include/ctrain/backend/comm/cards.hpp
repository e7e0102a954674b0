/// \file  Which of its host's cards a rank takes: one each, or a clear error.   floor 5: backend
#pragma once

#include <ctrain/core/error.hpp>

#include <algorithm>
#include <cstddef>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include <unistd.h>

namespace ctrain {

/// Where a rank runs, and the cards that it sees there, by names that all ranks of a host share. A
/// launcher may show each rank all of them, or only its own.
struct Seat {
  std::string host;
  std::vector<std::string> cards{};
};

namespace cards {

/// What ranks take in turn, each the first card it sees that is free; index -1 where none is.
inline int taken_by(const std::vector<Seat>& seats, int rank) {
  std::set<std::string> taken;
  for (int r = 0;; ++r) {
    const Seat& seat = seats[std::size_t(r)];
    if (seat.host != seats[std::size_t(rank)].host) continue;
    const auto free = std::ranges::find_if(
        seat.cards, [&](const std::string& card) { return !taken.contains(card); });
    if (r == rank) return free == seat.cards.end() ? -1 : int(free - seat.cards.begin());
    if (free != seat.cards.end()) taken.insert(*free);
  }
}

}  // namespace cards

/// The card that `rank` takes, as it counts them. Throws Error, on all ranks of a host, where that
/// has fewer cards than ranks.
inline int card_of(const std::vector<Seat>& seats, int rank) {
  const std::string& host = seats[std::size_t(rank)].host;
  std::set<std::string> seen;
  int ranks = 0;
  bool all_have_one = true;
  for (int r = 0; r < int(seats.size()); ++r) {
    const Seat& seat = seats[std::size_t(r)];
    if (seat.host != host) continue;
    ++ranks;
    seen.insert(seat.cards.begin(), seat.cards.end());
    all_have_one = all_have_one && cards::taken_by(seats, r) >= 0;
  }
  if (!all_have_one)
    throw Error("rank " + std::to_string(rank),
                "host " + host + " has " + std::to_string(seen.size()) +
                    (seen.size() == 1 ? " card for " : " cards for ") + std::to_string(ranks) +
                    " ranks",
                "Start at most one rank per card");
  return cards::taken_by(seats, rank);
}

/// The seat of every rank, told by itself.
template <class Control>
std::vector<Seat> seats_of_ranks(Control& control, const std::vector<std::string>& my_cards) {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  std::string mine = name;
  for (const std::string& card : my_cards) mine += "\n" + card;
  std::vector<Seat> seats;
  for (const auto& one : control.gather(std::as_bytes(std::span(mine)))) {
    std::istringstream lines(std::string(reinterpret_cast<const char*>(one.data()), one.size()));
    Seat& seat = seats.emplace_back();
    std::getline(lines, seat.host);
    for (std::string card; std::getline(lines, card);) seat.cards.push_back(card);
  }
  return seats;
}

}  // namespace ctrain
