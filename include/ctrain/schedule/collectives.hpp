/// \file  Every collective as a fixed list of exchanges, and the proof that it is that collective.   floor 4: schedule
#pragma once

#include <ctrain/core/table.hpp>
#include <ctrain/schedule/events.hpp>

#include <cstdint>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// One exchange of one member: it sends chunks [send, send + sends) to `to` and at the same time
/// receives chunks [receive, receive + receives) from `from`, then adds those to its own or takes
/// them as they are. A chunk is one member's share of the payload; of an all_to_all, whose first
/// half goes to the members and whose second half comes from them, half of that.
struct Exchange {
  std::int16_t to = 0, from = 0;
  std::int16_t send = 0, sends = 0, receive = 0, receives = 0;
  bool add = false;
};

inline constexpr int most_members = 64;
using Exchanges = Table<Exchange, 2 * most_members>;

// functions --------------------------------------------------------------------------------------

constexpr bool is_power_of_two(int n) {
  return n > 0 && (n & (n - 1)) == 0;
}

namespace lowering {

/// Recursive halving (Thakur, Rabenseifner & Gropp, 2005): with the partner at half the distance
/// each time, a member gives away the half it will not own and adds the half it will. The sum of a
/// chunk is a balanced tree over the members, the same tree for every chunk.
constexpr void halve(Exchanges& list, int members, int me) {
  int begin = 0, size = members;
  while (size > 1) {
    size /= 2;
    const int partner = me ^ size, upper = begin + size, mine = me & size ? upper : begin;
    list.add({std::int16_t(partner), std::int16_t(partner),
              std::int16_t(mine == begin ? upper : begin), std::int16_t(size), std::int16_t(mine),
              std::int16_t(size), true});
    begin = mine;
  }
}

/// Recursive doubling, the way back.
constexpr void double_up(Exchanges& list, int members, int me) {
  for (int size = 1; size < members; size *= 2) {
    const int mine = me / size * size, partner = me ^ size;
    list.add({std::int16_t(partner), std::int16_t(partner), std::int16_t(mine), std::int16_t(size),
              std::int16_t(mine ^ size), std::int16_t(size), false});
  }
}

/// A ring, where the number of members is no power of two: as few bytes, more messages. The sum of
/// chunk c goes around the ring and ends at member c.
constexpr void ring(Exchanges& list, int members, int me, bool add) {
  const auto chunk = [&](int n) { return std::int16_t(((n % members) + members) % members); };
  for (int step = 0; step + 1 < members; ++step) {
    const int sent = add ? me - step - 1 : me - step;
    list.add({std::int16_t((me + 1) % members), std::int16_t((me + members - 1) % members),
              chunk(sent), 1, chunk(sent - 1), 1, add});
  }
}

/// Every member's chunk straight to it; what is one's own stays.
constexpr void cross(Exchanges& list, int members, int me) {
  for (int step = 1; step < members; ++step) {
    const int to = (me + step) % members, from = (me + members - step) % members;
    list.add({std::int16_t(to), std::int16_t(from), std::int16_t(to), 1,
              std::int16_t(members + from), 1, false});
  }
}

}  // namespace lowering

/// What member `me` of `members` does, in order.
constexpr Exchanges lowered(Collective kind, int members, int me) {
  Exchanges list;
  if (kind == Collective::all_to_all) {
    lowering::cross(list, members, me);
    return list;
  }
  const bool tree = is_power_of_two(members);
  if (kind != Collective::all_gather) {
    if (tree)
      lowering::halve(list, members, me);
    else
      lowering::ring(list, members, me, true);
  }
  if (kind != Collective::reduce_scatter) {
    if (tree)
      lowering::double_up(list, members, me);
    else
      lowering::ring(list, members, me, false);
  }
  return list;
}

/// Chunks that the payload is cut into.
constexpr int chunks_of(Collective kind, int members) {
  return (kind == Collective::all_to_all ? 2 : 1) * members;
}

/// Chunks that a member sends.
constexpr int chunks_sent(Collective kind, int members) {
  return (kind == Collective::all_reduce ? 2 : 1) * (members - 1);
}

/// Bytes that one rank sends for a collective with that payload: the least possible.
constexpr bytes bytes_sent(Collective kind, int members, bytes payload) {
  return payload / chunks_of(kind, members) * chunks_sent(kind, members);
}

// proofs -----------------------------------------------------------------------------------------

/// Which members' contributions each member's copy of each chunk contains, one bit per member.
template <int Members> struct Contributions { std::uint64_t of[Members][Members]{}; };

/// True iff the lists, walked together with unbuffered messages (an exchange ends when both of its
/// messages were taken), all end; every sum takes every member exactly once; what should be
/// everywhere is; and every member sends exactly the least bytes.
template <int Members> constexpr bool lowering_is_exact(Collective kind) {
  constexpr std::uint64_t everyone =
      Members == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << (Members % 64)) - 1;
  Exchanges lists[Members]{};
  Contributions<Members> has;
  int sent[Members]{};
  for (int m = 0; m < Members; ++m) {
    lists[m] = lowered(kind, Members, m);
    for (int c = 0; c < Members; ++c)
      has.of[m][c] = kind != Collective::all_gather ? std::uint64_t{1} << m : c == m ? everyone : 0;
  }
  for (int step = 0; step < lists[0].size; ++step) {
    const Contributions<Members> before = has;
    for (int m = 0; m < Members; ++m) {
      // All members take step `step` together: whom I send to receives from me in this very step,
      // so no exchange waits for one that comes later, and no message needs a buffer.
      if (lists[m].size != lists[0].size) return false;
      const Exchange& mine = lists[m].rows[step];
      const Exchange& theirs = lists[mine.to].rows[step];
      if (theirs.from != m || theirs.receive != mine.send || theirs.receives != mine.sends ||
          theirs.add != mine.add)
        return false;
      sent[m] += mine.sends;
      for (int c = mine.receive; c < mine.receive + mine.receives; ++c) {
        if (c >= mine.send && c < mine.send + mine.sends) return false;
        const std::uint64_t other = before.of[mine.from][c];
        if (mine.add && (has.of[m][c] & other) != 0) return false;
        has.of[m][c] = mine.add ? has.of[m][c] | other : other;
      }
    }
  }
  for (int m = 0; m < Members; ++m) {
    if (sent[m] != chunks_sent(kind, Members)) return false;
    for (int c = 0; c < Members; ++c)
      if ((kind != Collective::reduce_scatter || c == m) && has.of[m][c] != everyone) return false;
  }
  return true;
}

/// The same of an all_to_all: each step pairs who sends with who receives, and in the end chunk j
/// of the second half is what member j had for this one.
template <int Members> constexpr bool crossing_is_exact() {
  Exchanges lists[Members]{};
  for (int m = 0; m < Members; ++m) lists[m] = lowered(Collective::all_to_all, Members, m);
  for (int m = 0; m < Members; ++m) {
    const Exchanges& list = lists[m];
    bool came[Members]{};
    came[m] = true;
    for (int step = 0; step < list.size; ++step) {
      const Exchange& mine = list.rows[step];
      const Exchange& theirs = lists[mine.from].rows[step];
      if (theirs.to != m || theirs.send != m || mine.send != mine.to || mine.add) return false;
      if (mine.receive != Members + mine.from || mine.sends != 1 || mine.receives != 1)
        return false;
      came[mine.from] = true;
    }
    for (const bool c : came)
      if (!c) return false;
    if (list.size != chunks_sent(Collective::all_to_all, Members)) return false;
  }
  return true;
}

/// One kind; a constant of its own, because clang bounds the steps of each.
template <Collective Kind, int Members>
inline constexpr bool collective_is_exact = lowering_is_exact<Members>(Kind);
template <int Members>
inline constexpr bool collective_is_exact<Collective::all_to_all, Members> =
    crossing_is_exact<Members>();

template <int Members>
inline constexpr bool collectives_are_exact = collective_is_exact<Collective::all_to_all, Members>&&
    collective_is_exact<Collective::all_reduce, Members>&& collective_is_exact<
        Collective::reduce_scatter, Members>&& collective_is_exact<Collective::all_gather, Members>;

static_assert(collectives_are_exact<2> && collectives_are_exact<4> && collectives_are_exact<8>);
static_assert(collectives_are_exact<3> && collectives_are_exact<5> && collectives_are_exact<6>);

}  // namespace ctrain
