/// \file  Records of a schedule: what each rank does in one optimizer step, in order.   floor 4: schedule
#pragma once

#include <ctrain/core/hash.hpp>
#include <ctrain/core/table.hpp>
#include <ctrain/core/units.hpp>
#include <ctrain/memory/buckets.hpp>
#include <ctrain/memory/split.hpp>
#include <ctrain/policy/grid.hpp>
#include <ctrain/policy/policy.hpp>

#include <cstdint>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// `compute` ends before the next event starts. `collective`, `send` and `receive` only start:
/// what they touch belongs to them until a `wait` names them. Those of one group, and those of one
/// direction of one pair of stages, happen in the order in which they were started. `acquire` takes
/// a buffer, whose content is then undefined; `release` gives it back.
enum class EventKind : std::uint8_t { compute, collective, send, receive, wait, acquire, release };

/// What a compute event computes. `backward` is `backward_input` and `backward_weight` at once.
/// `clear` zeroes gradients, `accumulate` adds a reduced shard to the shard that a rank keeps,
/// `norm` takes the square sums of a rank's gradients, `update` is the optimizer. Where signs are
/// summed instead of gradients, `compress` makes those that a rank sends, and `serve` the mean of
/// those that it got.
enum class Work : std::uint8_t {
  forward,
  backward,
  backward_input,
  backward_weight,
  clear,
  accumulate,
  norm,
  update,
  compress,
  serve
};

enum class Collective : std::uint8_t { all_reduce, reduce_scatter, all_gather, all_to_all };

/// Kinds of memory. The first five are indexed by bucket and stay; the others are buffers,
/// `gathered` and `reducing` of one bucket, `activations` and `stream_*` of one micro-batch. A
/// rank's shard of `gradients` and `parameters` (stages 0 to 2) is a part of them; in stage 3
/// `parameter_shard` is all that stays.
enum class Store : std::uint8_t {
  nothing,
  parameters,
  parameter_shard,
  gradients,
  gradient_shard,
  norms,         // one square sum per rank
  gathered,      // stage 3: a bucket's parameters while they are needed
  reducing,      // stages 2 and 3: a bucket's gradients until they are reduced
  activations,   // of a micro-batch between its forward and its backward
  stream_in,     // rows that a stage takes from the one before
  stream_out,    // rows that it hands on
  d_stream_in,   // their gradients, from the stage after
  d_stream_out,  // and to the one before
  signs,         // what a rank sends and gets to take the mean of
  means          // what servers make of it
};
inline constexpr int store_kinds = 15;
inline constexpr int most_places = 64;  // of one kind

/// Bytes that nothing else overlaps.
struct Place {
  Store store = Store::nothing;
  std::int16_t index = 0;
  friend constexpr bool operator==(const Place&, const Place&) = default;
};

/// One row of a table. `first` and `count` are units in a compute event (for clear, accumulate,
/// norm and update: buckets), a bucket and 1 in a collective. `micro` counts from the first
/// iteration of the section.
struct Event {
  EventKind kind = EventKind::compute;
  Work work = Work::forward;
  Collective collective = Collective::all_reduce;
  Group group = Group::data;
  Place from{}, to{};
  std::int16_t first = 0, count = 0;
  std::int16_t slot = -1;  // activations(slot) of forward and backward
  std::int16_t peer = -1;  // the pipeline stage at the other end
  std::int32_t micro = 0;
  std::int32_t awaited = -1;  // index of the event that a wait is for
  bytes size = 0;             // whole payload: of a collective the unsharded bucket

  constexpr bool starts_transfer() const {
    return kind == EventKind::collective || kind == EventKind::send || kind == EventKind::receive;
  }
  friend constexpr bool operator==(const Event&, const Event&) = default;
};

/// A run of events that is walked `repeats` times, with all transfers ended between iterations.
struct Section {
  int first = 0, size = 0;
  int repeats = 1;
  friend constexpr bool operator==(const Section&, const Section&) = default;
};

/// What a rank walks in one optimizer step.
template <int Capacity> struct StageTable {
  Table<Event, Capacity> events;
  Table<Section, 4> sections;
};

/// One step of all ranks. Ranks of one stage walk the same table; they differ in the shard they own
/// and in whom their groups consist of, which follows from their coordinates.
template <int Stages, int Capacity> struct Schedule {
  Split split;
  StageLayout layouts[Stages]{};
  StageTable<Capacity> tables[Stages]{};
};

// functions --------------------------------------------------------------------------------------

constexpr void add(Hash& h, const Event& e) {
  h.add(std::uint64_t(e.kind) | std::uint64_t(e.work) << 8 | std::uint64_t(e.collective) << 16 |
        std::uint64_t(e.group) << 24 | std::uint64_t(e.from.store) << 32 |
        std::uint64_t(e.to.store) << 40);
  h.add(std::uint64_t(std::uint16_t(e.from.index)) |
        std::uint64_t(std::uint16_t(e.to.index)) << 16 |
        std::uint64_t(std::uint16_t(e.first)) << 32 | std::uint64_t(std::uint16_t(e.count)) << 48);
  h.add(std::uint64_t(std::uint16_t(e.slot)) | std::uint64_t(std::uint16_t(e.peer)) << 16 |
        std::uint64_t(std::uint32_t(e.micro)) << 32);
  h.add(std::uint32_t(e.awaited));
  h.add(std::uint64_t(e.size));
}

/// Fingerprint of everything a rank will do. Ranks compare it when they start. Found at run time:
/// a hash of thousands of rows is no work for a compiler.
template <int Stages, int Capacity>
constexpr std::uint64_t hash_of(const Schedule<Stages, Capacity>& s) {
  Hash h;
  const int numbers[] = {s.split.grid.data,    s.split.grid.tensor,   s.split.grid.pipeline,
                         s.split.zero.stage,   s.split.micro_batches, s.split.layers,
                         int(s.split.sequence)};  // named: nvcc 13 stumbles over a list in a loop
  for (const int number : numbers) h.add(std::uint64_t(number));
  for (const StageTable<Capacity>& table : s.tables) {
    for (const Section& section : table.sections)
      h.add(std::uint64_t(section.first))
          .add(std::uint64_t(section.size))
          .add(std::uint64_t(section.repeats));
    for (const Event& e : table.events) add(h, e);
  }
  return h.value;
}

}  // namespace ctrain
