/// \file  The communicator of ranks with a card each: transfers on streams, between events of the step's.   floor 5: backend
#pragma once

#include <ctrain/backend/comm/cards.hpp>
#include <ctrain/backend/comm/collective_library.hpp>
#include <ctrain/backend/comm/transfer.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/memory/split.hpp>
#include <ctrain/schedule/collectives.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <deque>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace ctrain {

/// What a policy decides about its ranks' transfers.
struct DeviceRanksOptions {
  SumOrder order = SumOrder::fixed_tree;
  double deadline = 60;  // seconds without the end of a transfer, or of a recorded step, after
                         // which a host gives up

  static constexpr DeviceRanksOptions of(const Policy& p) {
    const bool invariant = p.deterministic == Deterministic::layout_invariant;
    return {invariant ? SumOrder::fixed_tree : SumOrder::native, double(p.parallel.deadline)};
  }
};

/// Models Communicator on device memory. Every group, and every direction between two pipeline
/// stages, is a lane: a Comm of `L` and a stream of its own. start() makes the lane wait for what
/// the step's stream was given before, wait() makes that stream wait for the very transfer; no host
/// ever waits, but in settle(). So a step can be recorded, on all ranks or on none, and is replayed
/// without a look at its transfers: a host that waits is told step by step. `Control` gathers small
/// values, and is made of `control_arguments`. Takes a card; a backend that is made after it is on
/// that card.
template <CollectiveLibrary L, class Control> class DeviceRanks {
  using Clock = std::chrono::steady_clock;
  using Comm = typename L::Comm;
  using Stream = typename L::Stream;
  using Event = typename L::Event;

 public:
  static constexpr bool is_recorded = true;  // what it does is on streams, and can be replayed

  explicit DeviceRanks(const Policy& p)
      : DeviceRanks(grid_of(p.parallel), DeviceRanksOptions::of(p), L(), grid_of(p.parallel),
                    double(p.parallel.deadline), p.parallel.ranks()) {}

  template <class... ControlArguments>
  DeviceRanks(const Grid& grid, const DeviceRanksOptions& options, L library,
              ControlArguments&&... control_arguments)
      : control_(std::forward<ControlArguments>(control_arguments)...),
        library_(std::move(library)),
        grid_(grid),
        options_(options) {
    take_card();
    open_lanes();
  }
  ~DeviceRanks() {
    if (std::uncaught_exceptions() > exceptions_) abort();
    for (Lane& lane : lanes_) close(lane);
    for (Open& open : transfers_) library_.destroy(open.reached), library_.destroy(open.ended);
    for (const GivenStep& step : steps_) library_.destroy(step.ended);
    for (const Event event : unused_) library_.destroy(event);
  }
  DeviceRanks(const DeviceRanks&) = delete;
  DeviceRanks& operator=(const DeviceRanks&) = delete;

  int rank() const { return control_.rank(); }
  int ranks() const { return control_.ranks(); }
  const Grid& grid() const { return grid_; }
  L& library() { return library_; }

  /// Transfers are ordered against that backend's stream from now on, and it settles before a host
  /// waits for it. Lives as long as the backend.
  template <class B> void serve(B& backend) {
    compute_ = backend.stream();
    backend.before_waiting([this] { settle(); });
  }
  /// `act` drops what was recorded of its transfers; it comes before all of them are ended.
  void before_aborting(std::function<void()> act) { before_aborting_ = std::move(act); }
  /// The step's stream was given all of a step.
  void gave_step(std::int64_t step) {
    if (unused_.empty()) unused_.push_back(library_.make_event());
    steps_.push_back({step, unused_.back()});
    unused_.pop_back();
    library_.record(steps_.back().ended, compute_);
  }
  /// Where a group's sums keep the summand that comes, of a plan: see largest_summand().
  void lend(Group group, void* memory, bytes size) {
    Lane& lane = lanes_[std::size_t(group)];
    lane.summand = memory, lane.summand_size = size;
  }

  int start(const Transfer& t) {
    if (t.size == 0 || (t.kind == EventKind::collective && grid_.size(t.group) == 1)) return -1;
    Lane& lane = lane_of(t);
    const int ticket = take_ticket();
    Open& open = transfers_[std::size_t(ticket)];
    open.name = t.name, open.is_awaited = true;
    if constexpr (requires { library_.announce(t); }) library_.announce(t);
    library_.record(open.reached, compute_);
    library_.wait(lane.stream, open.reached);
    give(lane, t);
    library_.record(open.ended, lane.stream);
    open.is_watched = !library_.is_capturing(compute_);
    if (open.is_watched) lane.open.push_back(ticket);
    return ticket;
  }
  void wait(int ticket) {
    if (ticket < 0) return;
    library_.wait(compute_, transfers_[std::size_t(ticket)].ended);
    transfers_[std::size_t(ticket)].is_awaited = false;
    give_back(ticket);
  }
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) {
    return control_.gather(mine);
  }

  /// Before a host waits for the step's stream: returns when that has ended, and throws Error,
  /// which names rank, event and who is gone, where a peer died or nothing ended for the deadline.
  void settle() {
    auto heard = Clock::now();
    for (int polls = 0; !library_.is_idle(compute_); ++polls) {
      if (forget_ended()) heard = Clock::now();
      look_for_faults();
      if (seconds_since(heard) > options_.deadline && is_stuck())
        fail(oldest_lane(), name_of(oldest_lane()), "");
      if (polls > 1000) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    forget_ended();
  }

 private:
  /// A transfer that was started: `reached` once it is its turn, `ended` with it. Its place is free
  /// again when the step's stream waits for its end, and a host saw that it came.
  struct Open {
    TransferName name{};
    Event reached{}, ended{};
    bool is_awaited = false, is_watched = false;
  };
  struct GivenStep {
    std::int64_t step = 0;
    Event ended{};
  };
  struct Lane {
    Comm comm{};
    Stream stream{};
    bool exists = false;
    int members = 1, me = 0;
    std::vector<int> others{};  // world ranks
    void* summand = nullptr;
    bytes summand_size = 0;
    std::deque<int> open{};  // tickets, the oldest first
  };
  // four groups, then two directions to the next stage and two to the one before
  static constexpr int to_next = 4, from_next = 5, to_previous = 6, from_previous = 7, lanes = 8;
  static constexpr const char* lane_names[lanes] = {"data",
                                                    "tensor",
                                                    "model",
                                                    "world",
                                                    "to next stage",
                                                    "from next stage",
                                                    "to previous stage",
                                                    "from previous stage"};
  static constexpr Group inner_groups[3] = {Group::data, Group::tensor, Group::model};
  static constexpr std::size_t most_unseen = 512;  // transfers, until a look at which have ended

  // opening and closing --------------------------------------------------------------------------

  void take_card() { library_.select(card_of(seats_of_ranks(control_, library_.cards()), rank())); }

  /// All ranks split together: one Comm a group, and one for each direction of each pair of
  /// neighbouring stages, pairs that start at an even stage first.
  void open_lanes() {
    const Coordinates c = grid_.at(rank());
    const int blocks = blocks_of_each(std::max(communicators(grid_), 1));
    std::vector<std::byte> mine;
    if (rank() == 0) mine = library_.make_id();
    const auto ids = control_.gather(mine);  // rank 0's counts
    const auto options = [&](int lane) {
      const int members = lane < to_next ? grid_.size(Group(lane)) : 2;
      return CommOptions{blocks, members, lane_names[lane]};
    };
    constexpr int world = int(Group::world);
    open(world, library_.join(ids.front(), ranks(), rank(), options(world)),
         members_of(Group::world));
    const Comm all = lanes_[world].comm;
    for (const Group g : inner_groups)
      if (grid_.size(g) > 1)
        open(int(g), library_.split(all, grid_.member(g, c, 0), rank(), options(int(g))),
             members_of(g));
    if (grid_.pipeline == 1) return;
    for (const int parity : {0, 1})
      for (const bool down : {true, false}) {
        const bool is_first = c.pipeline % 2 == parity;
        Coordinates first = c, second = c;
        first.pipeline = is_first ? c.pipeline : c.pipeline - 1;
        second.pipeline = first.pipeline + 1;
        const bool paired = first.pipeline >= 0 && second.pipeline < grid_.pipeline;
        const int lane =
            is_first ? (down ? to_next : from_next) : (down ? from_previous : to_previous);
        const Comm pair =
            library_.split(all, paired ? grid_.rank(first) : -1, rank(), options(lane));
        if (paired) open(lane, pair, {grid_.rank(first), grid_.rank(second)});
      }
  }
  std::vector<int> members_of(Group g) const {
    std::vector<int> members;
    for (int i = 0; i < grid_.size(g); ++i) members.push_back(grid_.member(g, grid_.at(rank()), i));
    return members;
  }
  void open(int which, Comm comm, const std::vector<int>& members) {
    Lane& lane = lanes_[std::size_t(which)];
    lane.comm = comm, lane.stream = library_.make_stream(lane_names[which]), lane.exists = true;
    lane.members = int(members.size());
    for (int i = 0; i < lane.members; ++i)
      if (members[std::size_t(i)] == rank())
        lane.me = i;
      else
        lane.others.push_back(members[std::size_t(i)]);
    finish_giving(lane, {.what = "start of the ranks' communicators"});
  }
  /// In peace all ranks come here.
  void close(Lane& lane) {
    if (!std::exchange(lane.exists, false)) return;
    library_.close(lane.comm);
    library_.destroy(lane.stream);
  }
  /// Otherwise nobody can be waited for.
  void abort() {
    std::vector<Comm> comms;
    for (const Lane& lane : lanes_)
      if (lane.exists) comms.push_back(lane.comm);
    library_.abort(comms);
    for (Lane& lane : lanes_)
      if (std::exchange(lane.exists, false)) library_.destroy(lane.stream);
  }

  // starting -------------------------------------------------------------------------------------

  Lane& lane_of(const Transfer& t) {
    if (t.kind == EventKind::collective) return lanes_[std::size_t(t.group)];
    const bool next = t.peer > rank();
    if (t.kind == EventKind::send) return lanes_[next ? to_next : to_previous];
    return lanes_[next ? from_next : from_previous];
  }
  void give(const Lane& lane, const Transfer& t) {
    if (t.kind == EventKind::collective && !is_native(lane, t)) return exchanges(lane, t);
    if (t.kind == EventKind::send)
      library_.send(lane.comm, lane.stream, t.data, t.size, 1 - lane.me);
    else if (t.kind == EventKind::receive)
      library_.receive(lane.comm, lane.stream, t.data, t.size, 1 - lane.me);
    else
      collective(lane, t);
    finish_giving(lane, t.name);
  }
  /// The library's own reduce_scatter and all_gather take equal chunks only, and it has no
  /// all_to_all.
  bool is_native(const Lane& lane, const Transfer& t) const {
    if (t.collective == Collective::all_to_all) return false;
    if (t.size / size_of(t.element) % lane.members != 0 && t.collective != Collective::all_reduce)
      return false;
    return t.collective == Collective::all_gather || options_.order == SumOrder::native;
  }
  void collective(const Lane& lane, const Transfer& t) {
    auto* const data = static_cast<std::byte*>(t.data);
    std::byte* const own = data + chunk_begin(t.size, t.element, lane.members, lane.me);
    const std::int64_t count = t.size / size_of(t.element), share = count / lane.members;
    if (t.collective == Collective::all_reduce)
      library_.all_reduce(lane.comm, lane.stream, data, count, t.element);
    else if (t.collective == Collective::reduce_scatter)
      library_.reduce_scatter(lane.comm, lane.stream, data, own, share, t.element);
    else
      library_.all_gather(lane.comm, lane.stream, own, data, share, t.element);
  }
  /// The same as exchanges in a fixed order; sums are ours.
  void exchanges(const Lane& lane, const Transfer& t) {
    auto* const data = static_cast<std::byte*>(t.data);
    const int chunks = chunks_of(t.collective, lane.members);
    const auto chunk = [&](int i) { return chunk_begin(t.size, t.element, chunks, i); };
    for (const Exchange& e : lowered(t.collective, lane.members, lane.me)) {
      const bytes from = chunk(e.receive), size = chunk(e.receive + e.receives) - from;
      std::byte* const to = e.add ? summand(lane, size) : data + from;
      library_.begin_group();
      library_.send(lane.comm, lane.stream, data + chunk(e.send),
                    chunk(e.send + e.sends) - chunk(e.send), e.to);
      library_.receive(lane.comm, lane.stream, to, size, e.from);
      library_.end_group();
      finish_giving(lane, t.name);
      if (e.add) library_.add(lane.stream, data + from, to, size, t.element);
    }
  }
  static std::byte* summand(const Lane& lane, bytes size) {
    if (size <= lane.summand_size) return static_cast<std::byte*>(lane.summand);
    throw Error("ranks",
                "a sum needs " + std::to_string(size) + " bytes for what comes, and was lent " +
                    std::to_string(lane.summand_size),
                "Lend it largest_summand() of its group's largest payload");
  }
  /// Only then is on the lane's stream what it was given.
  void finish_giving(const Lane& lane, const TransferName& name) {
    const auto begin = Clock::now();
    while (library_.is_busy(lane.comm)) {
      if (const std::string fault = library_.fault(lane.comm); !fault.empty())
        fail(lane, name, fault);
      if (seconds_since(begin) > options_.deadline) fail(lane, name, "");
      std::this_thread::yield();
    }
    if (const std::string fault = library_.fault(lane.comm); !fault.empty())
      fail(lane, name, fault);
  }

  // what has ended -------------------------------------------------------------------------------

  int take_ticket() {
    if (free_.empty() && transfers_.size() >= most_unseen && !library_.is_capturing(compute_))
      forget_ended();
    if (free_.empty()) {
      free_.push_back(int(transfers_.size()));
      transfers_.push_back({.reached = library_.make_event(), .ended = library_.make_event()});
    }
    const int ticket = free_.back();
    free_.pop_back();
    return ticket;
  }
  void give_back(int ticket) {
    const Open& open = transfers_[std::size_t(ticket)];
    if (!open.is_awaited && !open.is_watched) free_.push_back(ticket);
  }
  /// True if something has ended since.
  bool forget_ended() {
    bool any = false;
    for (Lane& lane : lanes_)
      for (; !lane.open.empty(); lane.open.pop_front(), any = true) {
        Open& open = transfers_[std::size_t(lane.open.front())];
        if (!library_.is_done(open.ended)) break;
        open.is_watched = false;
        give_back(lane.open.front());
      }
    for (; !steps_.empty() && library_.is_done(steps_.front().ended);
         steps_.pop_front(), any = true)
      unused_.push_back(steps_.front().ended);
    return any;
  }
  bool is_under_way(const Lane& lane) {
    return !lane.open.empty() &&
           library_.is_done(transfers_[std::size_t(lane.open.front())].reached);
  }
  /// Whether the step waits for others rather than computes. A captured step's transfers are not
  /// known one by one.
  bool is_stuck() {
    bool none_known = true;
    for (const Lane& lane : lanes_) {
      if (is_under_way(lane)) return true;
      none_known = none_known && lane.open.empty();
    }
    return none_known;
  }
  /// The one whose first transfer others keep waiting, or that of all ranks.
  const Lane& oldest_lane() {
    const Lane* oldest = nullptr;
    for (const Lane& lane : lanes_)
      if (is_under_way(lane) && (oldest == nullptr || name_of(lane).index < name_of(*oldest).index))
        oldest = &lane;
    return oldest == nullptr ? lanes_[std::size_t(Group::world)] : *oldest;
  }
  TransferName name_of(const Lane& lane) const {
    if (lane.open.empty()) return {.what = "the step"};
    return transfers_[std::size_t(lane.open.front())].name;
  }

  // what went wrong ------------------------------------------------------------------------------

  void look_for_faults() {
    for (const Lane& lane : lanes_)
      if (lane.exists)
        if (const std::string fault = library_.fault(lane.comm); !fault.empty())
          fail(lane, name_of(oldest_lane()), fault);
  }
  /// Ends all that waits on the card; `fault`: what the library says, or "" for silence.
  [[noreturn]] void fail(const Lane& lane, const TransferName& name, const std::string& fault) {
    std::string place = "rank " + std::to_string(rank());
    if (name.index >= 0) place += ", event " + std::to_string(name.index);
    const bool by_step = name.index < 0 && !steps_.empty();
    place += " (" + (by_step ? "step " + std::to_string(steps_.front().step + 1) : name.what);
    if (name.index >= 0) place += ", micro-batch " + std::to_string(name.micro);
    place += ")";
    std::string others = lane.others.size() == 1 ? "rank " : "one of ranks ";
    for (const int other : lane.others)
      others += (other == lane.others.front() ? "" : ", ") + std::to_string(other);
    if (library_.is_capturing(compute_)) library_.forget_capture(compute_);
    if (before_aborting_) before_aborting_();
    abort();
    std::string who;
    if constexpr (requires { control_.ask_around(place, 1.0); })
      who = control_.ask_around(place, std::min(options_.deadline, 5.0));
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.1f", options_.deadline);
    if (who.empty())
      who = fault.empty() ? "got nothing from " + others + " for " + seconds + " seconds"
                          : "lost " + others;
    throw Error(place, who + (fault.empty() ? "" : " (" + fault + ")"),
                "Its own output says why; start all ranks again");
  }
  static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  Control control_;
  L library_;
  Grid grid_;
  DeviceRanksOptions options_;
  Stream compute_{};
  std::array<Lane, lanes> lanes_{};
  std::vector<Open> transfers_;
  std::vector<int> free_;        // of those, the ones that are nobody's
  std::deque<GivenStep> steps_;  // whose end nobody has seen
  std::vector<Event> unused_;
  std::function<void()> before_aborting_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace ctrain
