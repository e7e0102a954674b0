/// \file  The communicator of many ranks: lanes of transfers, moved by a thread of their own.   floor 5: backend
#pragma once

#include <ctrain/backend/comm/blame.hpp>
#include <ctrain/backend/comm/exchange_pieces.hpp>
#include <ctrain/core/clock.hpp>
#include <ctrain/core/error.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// Lanes are also the tags of their messages.
namespace lane {
inline constexpr int groups = 4;   // one lane each
inline constexpr int control = 4;  // gather()
inline constexpr int peers = 5;    // tag of sends and receives; their lanes are one per direction
inline constexpr int reports = 6;  // tag of what ranks tell of their waits
}  // namespace lane

// the communicator -------------------------------------------------------------------------------

/// A Communicator over any Link, which it owns. The rank's own thread (one at a time) starts and
/// waits; a thread of the communicator's moves the first transfer of every lane whenever it can, so
/// no lane waits for another. It takes its memory when it is made, and for more than 1024 open
/// transfers. Where a rank ends by an Error, the others are told and end by one too.
template <Link L> class Transfers {
 public:
  using Clock = std::chrono::steady_clock;

  /// `deadline` in seconds: how long a wait goes on with no byte of its lane arriving.
  template <class... LinkArguments>
  Transfers(const Grid& grid, double deadline, LinkArguments&&... link_arguments)
      : link_(std::forward<LinkArguments>(link_arguments)...),
        grid_(grid),
        deadline_(std::chrono::duration_cast<Clock::duration>(
            std::chrono::duration<double>(std::min(deadline, 1e9)))),
        look_every_(std::clamp<Clock::duration>(deadline_ / 64, std::chrono::milliseconds(1),
                                                std::chrono::milliseconds(50))),
        lanes_(std::size_t(lane::peers + 2 * grid.ranks())),
        reports_(std::size_t(grid.ranks())),
        waits_for_(std::size_t(grid.ranks())),
        scratch_(std::size_t(transfer_scratch(grid)), std::byte{0}) {
    jobs_.reserve(1024);
    thread_ = std::thread([this] { run(); });
  }
  ~Transfers() {
    {
      const std::lock_guard lock(mutex_);
      own_error_ = std::uncaught_exceptions() > exceptions_;
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  int rank() const { return link_.rank(); }
  int ranks() const { return link_.ranks(); }
  const Grid& grid() const { return grid_; }
  /// Bytes that this rank has sent in transfers that have ended.
  bytes sent() const { return sent_.load(std::memory_order_relaxed); }

  int start(const Transfer& t) { return enqueue(t, lane_of(t)); }

  void wait(int ticket) {
    std::unique_lock lock(mutex_);
    waiting_lane_ = jobs_[ticket].lane, wait_began_ = Clock::now();
    done_.wait(lock, [&] { return jobs_[ticket].done || failure_.kind != Failure::none; });
    waiting_lane_ = -1;
    if (!jobs_[ticket].done) throw error_about(jobs_[ticket].transfer);
    waited_for_ = jobs_[ticket].when;
    jobs_[ticket].next = std::exchange(free_, ticket);
  }
  /// When the transfer that was waited for last was the first of its lane, until it ended.
  TimeSpan waited_for() const { return waited_for_; }

  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) {
    const auto everyone = std::size_t(ranks()), me = std::size_t(rank());
    std::vector<std::uint64_t> sizes(everyone);
    sizes[me] = mine.size();
    gather_equal(sizes.data(), bytes(everyone * sizeof(std::uint64_t)));
    const auto most = bytes(*std::max_element(sizes.begin(), sizes.end()));
    const auto room = std::size_t(round_up(most, size_of(DType::fp32)));
    std::vector<std::byte> all(room * everyone);
    std::copy(mine.begin(), mine.end(), all.data() + room * me);
    gather_equal(all.data(), bytes(all.size()));
    std::vector<std::vector<std::byte>> parts;
    for (std::size_t r = 0; r < everyone; ++r)
      parts.emplace_back(all.data() + r * room, all.data() + r * room + sizes[r]);
    return parts;
  }

 private:
  struct Job {
    Transfer transfer{};
    int lane = 0, next = -1;  // in its lane, or of the free ones
    bool done = false;
    TimeSpan when{};
  };
  struct Lane {
    int first = -1, last = -1;  // jobs; under the mutex
    bool running = false;       // from here on: the thread's own
    RunningTransfer<L> transfer{};
    Clock::time_point heard{};  // when its last piece ended
  };
  struct Failure {
    enum Kind : std::uint8_t { none, silent, lost, told, own, broken } kind = none;
    Ranks because_of = 0;
    int told_by = -1;
    std::string text{};  // broken: what a link said
  };
  /// What passes between this rank and one other on the tag of reports.
  struct Mailbox {
    Report in{}, out{};
    typename L::Message in_message{}, out_message{};
    bool in_open = false, out_open = false;
    Clock::time_point heard{};
  };

  // The rank's own thread.

  int lane_of(const Transfer& t) const {
    if (t.kind == EventKind::collective) return int(t.group);
    return lane::peers + t.peer + (t.kind == EventKind::send ? 0 : ranks());
  }
  int enqueue(const Transfer& t, int to) {
    const std::lock_guard lock(mutex_);
    if (failure_.kind != Failure::none) throw error_about(t);
    if (free_ < 0) jobs_.emplace_back(), free_ = int(jobs_.size()) - 1;
    const int ticket = free_;
    free_ = jobs_[ticket].next;
    jobs_[ticket] = {t, to, -1, has_nobody_to_talk_to(t)};
    if (jobs_[ticket].done) return ticket;
    Lane& lane = lanes_[to];
    (lane.first < 0 ? lane.first : jobs_[lane.last].next) = ticket;
    lane.last = ticket;
    started_.fetch_add(1, std::memory_order_relaxed);
    if (napping_) wake_.notify_one();
    return ticket;
  }
  bool has_nobody_to_talk_to(const Transfer& t) const {
    return t.size == 0 || (t.kind == EventKind::collective && grid_.size(t.group) == 1);
  }
  void gather_equal(void* data, bytes size) {
    wait(enqueue({.collective = Collective::all_gather,
                  .group = Group::world,
                  .data = data,
                  .size = size,
                  .name = {-1, 0, "gather"}},
                 lane::control));
  }
  Error error_about(const Transfer& t) const {
    const std::string who = text_of(failure_.because_of);
    std::string place = "rank " + std::to_string(rank());
    if (t.name.index >= 0) place += ", event " + std::to_string(t.name.index);
    place += std::string(" (") + t.name.what;
    if (t.name.index >= 0) place += ", micro-batch " + std::to_string(t.name.micro);
    place += ")";
    switch (failure_.kind) {
      case Failure::silent:
        return {place, "got nothing from " + who + " for " + seconds_text() + " seconds",
                "See there what it does; where it is only slow, raise parallel.deadline"};
      case Failure::told:
        return {place,
                "rank " + std::to_string(failure_.told_by) +
                    (failure_.because_of == only(failure_.told_by)
                         ? " has ended by an error"
                         : " has given up waiting for " + who),
                "Its own message says more; start all ranks again"};
      case Failure::broken:
        return {place, failure_.text, "Start all ranks with the same program and flags"};
      default:
        return {place, who + " is gone", "Its own output says why; start all ranks again"};
    }
  }
  std::string seconds_text() const {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", std::chrono::duration<double>(deadline_).count());
    return text;
  }

  // The communicator's thread.

  void run() {
    for (int r = 0; r < ranks(); ++r)
      if (r != rank()) expect_report(r);
    Clock::time_point look_at = Clock::now();
    int idle = 0;
    while (!stop_) {
      const bool moved = move();
      if (const auto now = Clock::now(); now >= look_at)
        look_around(now), look_at = now + look_every_;
      idle = moved ? 0 : idle + 1;
      rest(idle);
    }
    end();
  }

  /// One round over the lanes; true if something ended or began.
  bool move() try {
    if (failed()) return false;
    bool moved = take();
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      Lane& lane = lanes_[i];
      if (!lane.running) continue;
      const bool advanced = lane.transfer.advance(link_);
      if (advanced) lane.heard = Clock::now();
      if (lane.transfer.over()) finish(lane);
      moved |= advanced;
    }
    return moved;
  } catch (const PeerLost& peer) {
    read_reports(Clock::now());  // who has gone may have said why
    fail({Failure::lost, only(peer.rank)});
    return false;
  } catch (const std::exception& error) {
    fail({Failure::broken, only(rank()), -1, error.what()});
    return false;
  }
  /// Lets the first transfer of every idle lane run.
  bool take() {
    if (taken_ == started_.load(std::memory_order_relaxed)) return false;
    const std::lock_guard lock(mutex_);
    taken_ = started_.load(std::memory_order_relaxed);
    for (std::size_t i = 0; i < lanes_.size(); ++i)
      if (!lanes_[i].running && lanes_[i].first >= 0) begin(int(i));
    return true;
  }
  void begin(int i) {
    Lane& lane = lanes_[std::size_t(i)];
    const Transfer& t = jobs_[lane.first].transfer;
    lane.running = true, lane.heard = Clock::now(), ++running_;
    jobs_[lane.first].when.begin = steady_seconds();
    if (t.kind != EventKind::collective) {
      lane.transfer = {t, lane::peers};
      return;
    }
    const Coordinates me = grid_.at(rank());
    lane.transfer = {t,
                     i,
                     grid_.size(t.group),
                     grid_.position(t.group, me),
                     [&](int member) { return grid_.member(t.group, me, member); },
                     scratch_of(t.group)};
  }
  std::byte* scratch_of(Group group) {
    int before = 0;
    for (int g = 0; g < int(group); ++g) before += grid_.size(Group(g)) > 1;
    return scratch_.data() + before * pieces_in_flight * piece_size;
  }
  void finish(Lane& lane) {
    sent_.fetch_add(lane.transfer.sent(), std::memory_order_relaxed);
    const std::lock_guard lock(mutex_);
    jobs_[lane.first].done = true;
    jobs_[lane.first].when.end = steady_seconds();
    lane.first = jobs_[lane.first].next;
    lane.running = false, --running_;
    if (lane.first >= 0) begin(int(&lane - lanes_.data()));
    done_.notify_all();
  }

  /// Polls for a while, then leaves the core to others: in short naps while something is on its
  /// way, else until there is something to do.
  void rest(int idle) {
    constexpr int polls = 100, yields = 100;
    if (idle < polls) return;
    if (idle < polls + yields) return std::this_thread::yield();
    const int doubling = std::min((idle - polls - yields) / 64, 5);
    const Clock::duration nap =
        running_ > 0 ? std::chrono::microseconds(16 << doubling) : look_every_;
    std::unique_lock lock(mutex_);
    napping_ = true;
    wake_.wait_for(lock, nap,
                   [&] { return stop_ || taken_ != started_.load(std::memory_order_relaxed); });
    napping_ = false;
  }

  /// What has to happen now and then: hears of the others' waits, tells them of a long one of its
  /// own, and ends it at the deadline.
  void look_around(Clock::time_point now) {
    // Who was stopped itself, with the whole job perhaps, has not been listening.
    if (now - looked_ > deadline_ / 4) awake_since_ = now;
    looked_ = now;
    read_reports(now);
    if (failed()) return tell({failure_.because_of, 1});
    const auto [peers, silence] = silence_of_wait(now);
    if (silence >= deadline_) {
      fail({Failure::silent, to_blame(rank(), peers, waits_for_)});
    } else if (silence >= deadline_ / 8 && now - told_ >= deadline_ / 8) {
      told_ = now;
      tell({peers, 0});
    }
  }
  /// For whom the rank waits, and how long nothing has come from there.
  std::pair<Ranks, Clock::duration> silence_of_wait(Clock::time_point now) {
    const std::lock_guard lock(mutex_);
    if (waiting_lane_ < 0) return {};
    const Lane& lane = lanes_[std::size_t(waiting_lane_)];
    if (!lane.running) return {};
    return {lane.transfer.waits_for(), now - std::max({lane.heard, wait_began_, awake_since_})};
  }
  void expect_report(int from) {
    Mailbox& box = reports_[std::size_t(from)];
    box.in_message =
        link_.receive(from, lane::reports, std::as_writable_bytes(std::span(&box.in, 1)));
    box.in_open = true;
  }
  void read_reports(Clock::time_point now) {
    for (int r = 0; r < ranks(); ++r) {
      Mailbox& box = reports_[std::size_t(r)];
      if (now - box.heard > deadline_ / 2) waits_for_[std::size_t(r)] = 0;
      if (!box.in_open) continue;
      const MessageState state = link_.state(box.in_message);
      if (state == MessageState::open) continue;
      box.in_open = false;
      if (state == MessageState::lost) continue;
      box.heard = now;
      waits_for_[std::size_t(r)] = box.in.because_of;
      if (box.in.ended)
        fail({Failure::told, box.in.because_of, r});
      else
        expect_report(r);
    }
  }
  /// To all others; to whom has not yet taken the last one, not before he has.
  void tell(const Report& report) {
    for (int r = 0; r < ranks(); ++r) {
      Mailbox& box = reports_[std::size_t(r)];
      if (r == rank() || box.out.ended || is_open(box)) continue;
      box.out = report;
      box.out_message = link_.send(r, lane::reports, std::as_bytes(std::span(&box.out, 1)));
      box.out_open = true;
    }
  }

  /// Whether the last report to someone is still on its way.
  bool is_open(Mailbox& box) {
    box.out_open = box.out_open && link_.state(box.out_message) == MessageState::open;
    return box.out_open;
  }

  bool failed() const { return failure_.kind != Failure::none; }
  /// From now on every start and wait throws, and the link touches no memory of a transfer.
  void fail(Failure failure) {
    if (failed()) return;
    for (Lane& lane : lanes_)
      if (std::exchange(lane.running, false)) lane.transfer.cancel(link_);
    running_ = 0;
    const std::lock_guard lock(mutex_);
    failure_ = std::move(failure);
    done_.notify_all();
  }

  /// Nothing stays open in the link. Those who have to end too get a moment to hear of it.
  void end() {
    if (own_error_) fail({Failure::own, only(rank())});
    if (failed()) {
      link_.abandon();
      const auto until = Clock::now() + std::chrono::milliseconds(100);
      do tell({failure_.because_of, 1}), std::this_thread::sleep_for(std::chrono::milliseconds(1));
      while (!all_were_told() && Clock::now() < until);
    }
    for (Lane& lane : lanes_)
      if (lane.running) lane.transfer.cancel(link_);
    for (Mailbox& box : reports_) {
      if (box.in_open) link_.cancel(box.in_message);
      if (box.out_open) link_.cancel(box.out_message);
    }
  }
  bool all_were_told() {
    for (int r = 0; r < ranks(); ++r) {
      Mailbox& box = reports_[std::size_t(r)];
      if (r != rank() && (!box.out.ended || is_open(box))) return false;
    }
    return true;
  }

  L link_;
  const Grid grid_;
  const Clock::duration deadline_, look_every_;

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<Job> jobs_;
  int free_ = -1;
  TimeSpan waited_for_{};
  int waiting_lane_ = -1;
  Clock::time_point wait_began_{};
  Failure failure_{};
  bool own_error_ = false, napping_ = false;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> started_{0};
  std::atomic<bytes> sent_{0};

  std::vector<Lane> lanes_;
  std::vector<Mailbox> reports_;
  std::vector<Ranks> waits_for_;
  std::vector<std::byte> scratch_;
  std::uint64_t taken_ = 0;
  int running_ = 0;
  Clock::time_point looked_{}, awake_since_{}, told_{};
  int exceptions_ = std::uncaught_exceptions();
  std::thread thread_;
};

}  // namespace ctrain
