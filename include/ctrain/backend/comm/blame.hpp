/// \file  Who keeps the others waiting: what ranks tell each other of their waits.   floor 5: backend
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <string>

namespace ctrain {

/// A set of ranks, one bit each.
using Ranks = std::uint64_t;

constexpr Ranks only(int rank) {
  return Ranks{1} << rank;
}

/// What a rank tells all others: for whom it has been waiting for a while, or, if `ended`, that it
/// ends because of those ranks (itself, if for a reason of its own). Bytes on the wire.
struct Report {
  Ranks because_of = 0;
  std::uint64_t ended = 0;
};

/// Who is to blame where rank `me` waits for `peers`, and rank r, as it said itself, for
/// waits_for[r] (nobody: it is silent, or has something else to do). Whoever waits is not to blame,
/// but whom they wait for is; where everybody waits for each other, `peers` are.
constexpr Ranks to_blame(int me, Ranks peers, std::span<const Ranks> waits_for) {
  Ranks seen = only(me), open = peers & ~seen, blamed = 0;
  while (open != 0) {
    const int rank = std::countr_zero(open);
    seen |= only(rank);
    if (waits_for[rank] == 0) blamed |= only(rank);
    open = (open | waits_for[rank]) & ~seen;
  }
  return blamed != 0 ? blamed : peers;
}

/// "rank 3" or "ranks 1, 2".
inline std::string text_of(Ranks ranks) {
  std::string text = std::popcount(ranks) == 1 ? "rank" : "ranks";
  for (const char* before = " "; ranks != 0; ranks &= ranks - 1, before = ", ")
    text += before + std::to_string(std::countr_zero(ranks));
  return text;
}

// 1 waits for 2 and 3 waits for 0: who waits for 1 has 2 to blame; 0 and 3 have each other.
static_assert([] {
  constexpr Ranks waits_for[] = {0, only(2), 0, only(0)};
  return to_blame(0, only(1), waits_for) == only(2) && to_blame(0, only(3), waits_for) == only(3) &&
         to_blame(3, only(1) | only(2), waits_for) == only(2);
}());

}  // namespace ctrain
