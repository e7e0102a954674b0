/// \file  What ranks say to each other: one transfer, and what a communicator offers.   floor 5: backend
#pragma once

#include <ctrain/core/floating.hpp>
#include <ctrain/core/units.hpp>
#include <ctrain/policy/grid.hpp>
#include <ctrain/schedule/events.hpp>

#include <concepts>
#include <cstddef>
#include <span>
#include <vector>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// What a message calls a transfer: its row in the rank's table, the micro-batch, and the event in
/// words that outlive it ("reduce_scatter gradients 3").
struct TransferName {
  int index = -1;
  int micro = 0;
  const char* what = "transfer";
};

/// One transfer of one rank, in place. Until it was waited for, `data` belongs to it.
/// A collective's payload is cut into one chunk per member: member i's is elements
/// [i * count / members, (i + 1) * count / members) of its `count`. all_reduce leaves the sum
/// everywhere, reduce_scatter in this member's chunk (and nothing of use in the others);
/// all_gather starts from this member's chunk. Of an all_to_all's payload, chunk i of the first
/// half goes to member i, and chunk i of the second half comes from there, but for one's own.
struct Transfer {
  EventKind kind = EventKind::collective;  // or send or receive
  Collective collective = Collective::all_reduce;
  Group group = Group::data;  // among whom a collective is
  int peer = -1;              // of a send or a receive: the other's world rank
  void* data = nullptr;
  bytes size = 0;  // whole payload
  DType element =
      DType::fp32;  // what a sum adds: fp32, or bf16 (in fp32, rounded once an addition)
  TransferName name{};
};

// concepts ---------------------------------------------------------------------------------------

/// Moves bytes between the ranks of a grid. `start` returns at once. Transfers of one lane, which
/// is a group, or one direction to one peer, end in the order in which they were started, lanes
/// independently of each other; both sides of a lane start the same ones in the same order. `wait`
/// throws an Error that names peer, row and event once the peer is dead or was silent for the
/// policy's deadline. `gather` brings small values of all ranks to all, in rank order; nobody
/// leaves it before everybody came.
template <class C>
concept Communicator = requires(C& c, const Transfer& t, int ticket,
                                std::span<const std::byte> mine) {
  { c.rank() } -> std::convertible_to<int>;
  { c.ranks() } -> std::convertible_to<int>;
  { c.grid() } -> std::convertible_to<Grid>;
  { c.start(t) } -> std::same_as<int>;
  c.wait(ticket);
  { c.gather(mine) } -> std::same_as<std::vector<std::vector<std::byte>>>;
};

// functions --------------------------------------------------------------------------------------

/// Where chunk `i` of a payload's `chunks` begins, in bytes; chunk `chunks` is its end.
constexpr bytes chunk_begin(bytes size, DType element, int chunks, int i) {
  return size / size_of(element) * i / chunks * size_of(element);
}

static_assert(chunk_begin(64, DType::fp32, 4, 1) == 16 && chunk_begin(28, DType::fp32, 3, 2) == 16);

}  // namespace ctrain
