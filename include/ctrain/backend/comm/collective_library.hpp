/// \file  What moves bytes between cards, as little as ranks need of it: NCCL with its streams and events.   floor 5: backend
#pragma once

#include <ctrain/core/floating.hpp>
#include <ctrain/core/units.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// In which order a sum adds: the library's own, which depends on the ranks' wiring, or the fixed
/// tree of schedule/collectives.hpp, whose bits every layout and every transport shares.
enum class SumOrder : std::uint8_t { native, fixed_tree };

/// `most_blocks`: multiprocessors that it may take. `name` outlives it.
struct CommOptions {
  int most_blocks = 1;
  int members = 1;
  const char* name = "";
};

// concepts ---------------------------------------------------------------------------------------

/// Comm, Stream and Event are handles, cheap to copy. What a Comm and a Stream are given happens in
/// that order, once all members of the Comm were given the same; calls return at once. `join` and
/// `split` are called by all ranks; a Comm of color -1 is none, and so is Comm{}. While `is_busy`,
/// a Comm has not yet put on its stream what it was given. `fault` is "" as long as all is well;
/// after it, only `abort` is left, which ends what is on the streams of all Comms at once.
/// What a stream that is capturing is given, and what other streams are given between events of it,
/// is recorded and does not happen; `forget_capture` drops it. A Comm is neither closed nor aborted
/// before nothing is left of recordings that have calls of it: others would wait for that for ever.
/// `announce`, where there is one, hears of each transfer before it is given.
/// Counts are elements, and of `reduce_scatter` and `all_gather` those of one member.
template <class L>
concept CollectiveLibrary = requires(L& library, typename L::Comm comm, typename L::Stream stream,
                                     typename L::Event event, std::span<const std::byte> id,
                                     void* to, const void* from, std::int64_t count, DType element,
                                     bytes size, int n, const CommOptions& options,
                                     std::span<const typename L::Comm> comms) {
  { library.cards() } -> std::same_as<std::vector<std::string>>;  // a name each
  library.select(n);
  { library.make_id() } -> std::same_as<std::vector<std::byte>>;
  { library.join(id, n, n, options) } -> std::same_as<typename L::Comm>;     // ranks, rank
  { library.split(comm, n, n, options) } -> std::same_as<typename L::Comm>;  // color, key
  library.close(comm);
  library.abort(comms);
  { library.is_busy(comm) } -> std::same_as<bool>;
  { library.fault(comm) } -> std::same_as<std::string>;

  { library.make_stream(options.name) } -> std::same_as<typename L::Stream>;
  { library.make_event() } -> std::same_as<typename L::Event>;
  library.destroy(stream);
  library.destroy(event);
  library.record(event, stream);
  library.wait(stream, event);
  { library.is_done(event) } -> std::same_as<bool>;
  { library.is_idle(stream) } -> std::same_as<bool>;
  { library.is_capturing(stream) } -> std::same_as<bool>;
  library.forget_capture(stream);

  library.all_reduce(comm, stream, to, count, element);
  library.reduce_scatter(comm, stream, from, to, count, element);
  library.all_gather(comm, stream, from, to, count, element);
  library.begin_group();
  library.send(comm, stream, from, size, n);
  library.receive(comm, stream, to, size, n);
  library.end_group();
  library.add(stream, to, from, size, element);  // to += from
};

}  // namespace ctrain
