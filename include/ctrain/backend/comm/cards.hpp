/// \file  Which of its host's cards a rank takes: one each, or a clear error.   floor 5: backend
#pragma once

#include <ctrain/core/error.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

namespace ctrain {

/// How many of the ranks before `rank` are on its host: the card it takes.
inline int card_of(const std::vector<std::string>& hosts, int rank) {
  int before = 0;
  for (int other = 0; other < rank; ++other)
    before += hosts[std::size_t(other)] == hosts[std::size_t(rank)];
  return before;
}

/// Throws Error where `rank`'s host has more ranks than cards.
inline void require_a_card_for_each_rank(const std::vector<std::string>& hosts, int rank,
                                         int cards) {
  int ranks = 0;
  for (const std::string& host : hosts) ranks += host == hosts[std::size_t(rank)];
  if (ranks > cards)
    throw Error("rank " + std::to_string(rank),
                "host " + hosts[std::size_t(rank)] + " has " + std::to_string(cards) +
                    " cards for " + std::to_string(ranks) + " ranks",
                "Start at most one rank per card");
}

/// The host of every rank, told by itself.
template <class Control> std::vector<std::string> hosts_of_ranks(Control& control) {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  std::vector<std::string> hosts;
  for (const auto& one : control.gather(std::as_bytes(std::span(std::string_view(name)))))
    hosts.emplace_back(reinterpret_cast<const char*>(one.data()), one.size());
  return hosts;
}

template <class Control> void require_a_card_for_each_rank(Control& control, int cards) {
  require_a_card_for_each_rank(hosts_of_ranks(control), control.rank(), cards);
}

}  // namespace ctrain
