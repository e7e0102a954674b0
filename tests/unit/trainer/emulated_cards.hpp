/// \file  Cards that are threads: streams, events and a library like NCCL, for ranks that are threads too.
#pragma once

#include <ctrain/backend/arena.hpp>
#include <ctrain/backend/comm/collective_library.hpp>
#include <ctrain/backend/comm/threads.hpp>
#include <ctrain/backend/cpu/reference.hpp>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <omp.h>

namespace emulated {

using namespace ctrain;

// streams and events -----------------------------------------------------------------------------

/// A point that a stream comes to.
class Moment {
 public:
  void come() {
    const std::lock_guard lock(mutex_);
    came_ = true;
    all_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    all_.wait(lock, [&] { return came_; });
  }
  bool came() {
    const std::lock_guard lock(mutex_);
    return came_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  bool came_ = false;
};
class Graph;
struct EventSlot {
  std::shared_ptr<Moment> latest;
  Graph* of = nullptr;  // that has recorded it last
  int record = 0;
};

/// Does what it is given in order, on a thread of its own, or records it.
class Queue {
 public:
  Queue() : thread_([this] { run(); }) {}
  ~Queue() {
    push(nullptr);
    thread_.join();
  }
  void push(std::function<void()> work);
  std::shared_ptr<Moment> mark() {
    if (graph_ != nullptr) throw std::logic_error("a wait for a stream that is capturing");
    auto moment = std::make_shared<Moment>();
    push([moment] { moment->come(); });
    return moment;
  }
  bool is_idle() {
    if (graph_ != nullptr) throw std::logic_error("a question to a stream that is capturing");
    const std::lock_guard lock(mutex_);
    return work_.empty();
  }
  void capture(Graph* graph) { graph_ = graph; }
  Graph* captured() const { return graph_; }

 private:
  friend class Graph;
  void give(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
    wake_.notify_one();
  }
  void run() {
    omp_set_num_threads(1);
    for (;;) {
      std::function<void()>* next = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return !work_.empty(); });
        next = &work_.front();  // stays there while it is done: not idle
      }
      if (!*next) return;
      (*next)();
      const std::lock_guard lock(mutex_);
      work_.pop_front();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> work_;
  Graph* graph_ = nullptr;  // of its giver
  std::thread thread_;
};

/// What streams were given between the begin and the end of a capture, as a device keeps it: what a
/// stream did before or does meanwhile is no part of it, and what no event brings back to the first
/// stream makes it invalid.
class Graph {
 public:
  explicit Graph(Queue& first) : first_(&first) { join(&first); }
  ~Graph() { forget(); }
  void add(Queue* to, std::function<void()> work) {
    calls_.push_back({to, std::move(work)});
    last_[to] = -1;
  }
  /// `count` is one more as long as something is left of the graph.
  void hold(std::atomic<int>& count) { ++count, held_.push_back(&count); }
  void record(Queue* on, EventSlot& event) {
    event.of = this, event.record = records_++;
    calls_.push_back({on, nullptr, event.record});
    last_[on] = event.record;
  }
  void wait(Queue* on, const EventSlot& event) {
    if (event.of != this) throw std::logic_error("a capture waits for what is no part of it");
    if (on->captured() == nullptr) join(on);
    calls_.push_back({on, nullptr, -1, event.record});
    last_[on] = -1;
    waited_for_.insert(event.record);
  }
  void end() {
    let_go();
    for (auto& [queue, record] : last_)
      if (queue != first_ && !waited_for_.contains(record))
        throw std::logic_error("a capture ends before a stream has come back");
  }
  /// Of a graph that was not ended, too.
  void forget() {
    if (is_open_) let_go();
    for (std::atomic<int>* count : std::exchange(held_, {})) --*count;
  }
  /// On the thread of the stream that it is replayed on.
  void run() {
    std::vector<std::shared_ptr<Moment>> moments(std::size_t(records_), nullptr);
    for (const Call& call : calls_) {
      Queue& lane = *lanes_.at(call.on);
      if (call.record >= 0)
        moments[std::size_t(call.record)] = lane.mark();
      else if (call.wait >= 0)
        lane.give([moment = moments[std::size_t(call.wait)]] { moment->wait(); });
      else
        lane.give(call.work);
    }
    for (auto& [queue, lane] : lanes_) lane->mark()->wait();
  }

 private:
  struct Call {
    Queue* on;
    std::function<void()> work{};
    int record = -1, wait = -1;
  };
  void let_go() {
    for (auto& [queue, lane] : lanes_) queue->capture(nullptr);
    is_open_ = false;
  }
  void join(Queue* queue) {
    lanes_.emplace(queue, std::make_unique<Queue>());
    queue->capture(this);
  }

  Queue* first_;
  bool is_open_ = true;
  std::vector<Call> calls_;
  int records_ = 0;
  std::map<Queue*, std::unique_ptr<Queue>> lanes_;  // by whom they stand for
  std::map<Queue*, int> last_;                      // call: an event's record, or -1
  std::set<int> waited_for_;
  std::vector<std::atomic<int>*> held_;
};

inline void Queue::push(std::function<void()> work) {
  if (graph_ != nullptr)
    graph_->add(this, std::move(work));
  else
    give(std::move(work));
}

// the library ------------------------------------------------------------------------------------

/// What the members of one Comm share: their k-th calls meet, messages pair up by direction.
struct Shared {
  explicit Shared(int members_of) : members(members_of) {}
  struct Round {
    std::string call;
    std::vector<std::byte*> data;
    int arrived = 0;
    bool done = false;
  };
  struct Post {
    const void* from = nullptr;
    bytes size = 0;
    std::shared_ptr<Moment> taken = std::make_shared<Moment>();
  };
  int members;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::uint64_t, Round> rounds;
  std::map<std::pair<int, int>, std::deque<Post>> posts;
  std::set<int> came;           // ranks, to a split
  std::set<int> gone, aborted;  // members
  std::string fault;
};

/// Where the ranks of a test meet: Comms by their names.
class World {
 public:
  std::shared_ptr<Shared> meet(const std::string& name, int members) {
    const std::lock_guard lock(mutex_);
    auto& shared = comms_[name];
    if (!shared) shared = std::make_shared<Shared>(members);
    return shared;
  }

  std::atomic<bool> hangs = false;  // for ever, in a library's own call

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Shared>> comms_;
};

/// A member's end of a Comm.
struct Member {
  std::shared_ptr<Shared> shared;
  int me = 0;
  std::uint64_t next = 0;  // of the stream's thread
  int busy = 0;            // polls until what was given is on its stream
  std::function<void()> given{};
  std::atomic<int> graphs = 0;  // calls in what is left of recordings
};

/// Models CollectiveLibrary. Like NCCL without blocking, it puts a call on its stream some polls
/// later, and nothing may be given meanwhile. `notices`: whether a Comm hears of a member that is
/// gone; over NVLink nobody does.
class Library {
 public:
  using Comm = Member*;
  using Stream = Queue*;
  using Event = EventSlot*;

  Library(World& world, bool notices = true) : world_(&world), notices_(notices) {}

  static std::vector<std::string> cards() { return {"0", "1", "2", "3", "4", "5", "6", "7"}; }
  static void select(int) {}
  static std::vector<std::byte> make_id() { return std::vector<std::byte>(8); }
  Comm join(std::span<const std::byte>, int, int rank, const CommOptions& o) {
    return new Member{world_->meet("world", o.members), rank, 0, 3};
  }
  Comm split(Comm, int color, int rank, const CommOptions& o) {
    const std::string name = std::to_string(splits_++) + " of " + std::to_string(color);
    if (color < 0) return nullptr;
    const auto shared = world_->meet(name, o.members);
    // Members are in the order of their ranks, once all have come.
    std::unique_lock lock(shared->mutex);
    shared->came.insert(rank);
    shared->changed.notify_all();
    shared->changed.wait(lock, [&] { return int(shared->came.size()) == shared->members; });
    const int me = int(std::distance(shared->came.begin(), shared->came.find(rank)));
    return new Member{shared, me, 0, 3};
  }
  void close(Comm comm) {
    wait_for_graphs(comm);
    delete comm;
  }
  void abort(std::span<const Comm> comms) {
    for (const Comm comm : comms) {
      Shared& shared = *comm->shared;
      {
        const std::lock_guard lock(shared.mutex);
        shared.aborted.insert(comm->me);
        if (notices_) shared.gone.insert(comm->me);
      }
      shared.changed.notify_all();
      aborted_.push_back(std::unique_ptr<Member>(comm));  // its stream may still use it
    }
    for (const Comm comm : comms) wait_for_graphs(comm);
  }
  static bool is_busy(Comm comm) {
    if (comm->busy == 0) return false;
    if (--comm->busy == 0 && comm->given) std::exchange(comm->given, nullptr)();
    return comm->busy > 0;
  }
  static std::string fault(Comm comm) {
    const std::lock_guard lock(comm->shared->mutex);
    if (!comm->shared->gone.empty()) return "a member is gone";
    return comm->shared->fault;
  }

  static Stream make_stream(const char*) { return new Queue; }
  static Event make_event() { return new EventSlot; }
  static void destroy(Stream stream) { delete stream; }
  static void destroy(Event event) { delete event; }
  static void record(Event event, Stream stream) {
    if (Graph* const graph = stream->captured()) return graph->record(stream, *event);
    event->of = nullptr, event->latest = stream->mark();
  }
  static void wait(Stream stream, Event event) {
    if (Graph* const graph = event->of != nullptr ? event->of : stream->captured())
      return graph->wait(stream, *event);
    stream->push([moment = event->latest] { moment->wait(); });
  }
  static bool is_done(Event event) {
    if (event->of != nullptr) throw std::logic_error("a question to an event of a capture");
    return event->latest->came();
  }
  static bool is_idle(Stream stream) { return stream->is_idle(); }
  static bool is_capturing(Stream stream) {
    return stream != nullptr && stream->captured() != nullptr;
  }
  static void forget_capture(Stream stream) { stream->captured()->forget(); }

  void all_reduce(Comm comm, Stream stream, void* data, std::int64_t count, DType) {
    together(comm, stream, "all_reduce " + std::to_string(count), data, [=](Shared::Round& r) {
      add_all(r, 0, count);
      for (std::size_t m = 1; m < r.data.size(); ++m)
        std::memcpy(r.data[m], r.data[0], std::size_t(4 * count));
    });
  }
  void reduce_scatter(Comm comm, Stream stream, const void* from, void*, std::int64_t count,
                      DType) {
    together(comm, stream, "reduce_scatter " + std::to_string(count), const_cast<void*>(from),
             [=](Shared::Round& r) {
               for (std::size_t m = 0; m < r.data.size(); ++m)
                 add_all(r, m, count, std::int64_t(m) * count);
             });
  }
  void all_gather(Comm comm, Stream stream, const void*, void* to, std::int64_t count,
                  DType element) {
    const auto share = std::size_t(count * size_of(element));
    together(comm, stream, "all_gather " + std::to_string(count), to, [=](Shared::Round& r) {
      for (std::size_t m = 0; m < r.data.size(); ++m)
        for (std::size_t other = 0; other < r.data.size(); ++other)
          if (other != m) std::memcpy(r.data[other] + m * share, r.data[m] + m * share, share);
    });
  }
  void begin_group() { in_group_ = true; }
  void end_group() {
    in_group_ = false;
    give_messages();
  }
  void send(Comm comm, Stream stream, const void* from, bytes size, int to) {
    messages_.push_back({comm, stream, true, const_cast<void*>(from), size, to});
    if (!in_group_) give_messages();
  }
  void receive(Comm comm, Stream stream, void* to, bytes size, int from) {
    messages_.push_back({comm, stream, false, to, size, from});
    if (!in_group_) give_messages();
  }
  static void add(Stream stream, void* to, const void* summand, bytes size, DType) {
    stream->push([=] {
      for (std::int64_t i = 0; i < size / 4; ++i)
        static_cast<float*>(to)[i] += static_cast<const float*>(summand)[i];
    });
  }

 private:
  struct Message {
    Comm comm;
    Stream stream;
    bool sends;
    void* data;
    bytes size;
    int peer;
  };

  /// In the order of members, into chunk `first` of member `m`.
  static void add_all(Shared::Round& r, std::size_t m, std::int64_t count, std::int64_t first = 0) {
    for (std::int64_t i = first; i < first + count; ++i) {
      float sum = reinterpret_cast<float*>(r.data[0])[i];
      for (std::size_t other = 1; other < r.data.size(); ++other)
        sum += reinterpret_cast<float*>(r.data[other])[i];
      reinterpret_cast<float*>(r.data[m])[i] = sum;
    }
  }
  /// As NCCL does, without an end.
  void wait_for_graphs(Comm comm) {
    for (int i = 0; comm->graphs > 0 && !world_->hangs; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (i > 5000) world_->hangs = true;
    }
  }
  static void give(Comm comm, Stream stream, std::function<void()> work) {
    if (Graph* const graph = stream->captured()) graph->hold(comm->graphs);
    if (comm->busy > 0) {
      const std::lock_guard lock(comm->shared->mutex);
      comm->shared->fault = "a call before the last one was on its stream";
      return;
    }
    comm->busy = 3;
    comm->given = [=] { stream->push(work); };
  }
  template <class Act>
  static void together(Comm comm, Stream stream, const std::string& call, void* data, Act act) {
    give(comm, stream, [=] {
      Shared& shared = *comm->shared;
      std::unique_lock lock(shared.mutex);
      Shared::Round& r = shared.rounds[comm->next++];
      r.data.resize(std::size_t(shared.members));
      if (r.arrived == 0) r.call = call;
      if (r.call != call) shared.fault = r.call + " met " + call;
      r.data[std::size_t(comm->me)] = static_cast<std::byte*>(data);
      if (++r.arrived == shared.members && shared.fault.empty()) {
        act(r);
        r.done = true;
        shared.changed.notify_all();
      }
      shared.changed.wait(lock, [&] { return r.done || shared.aborted.contains(comm->me); });
    });
  }
  void give_messages() {
    if (messages_.empty()) return;
    const std::vector<Message> all = std::exchange(messages_, {});
    give(all[0].comm, all[0].stream, [all] { exchange(all); });
  }
  /// All of a group at once: who sends has posted before it waits to receive.
  static void exchange(const std::vector<Message>& all) {
    Member& m = *all[0].comm;
    Shared& shared = *m.shared;
    std::vector<std::shared_ptr<Moment>> sent;
    std::unique_lock lock(shared.mutex);
    const auto wait_for = [&](auto&& what) {
      shared.changed.wait(lock, [&] { return what() || shared.aborted.contains(m.me); });
      return !shared.aborted.contains(m.me);
    };
    for (const Message& message : all)
      if (message.sends) {
        shared.posts[{m.me, message.peer}].push_back({message.data, message.size});
        sent.push_back(shared.posts[{m.me, message.peer}].back().taken);
      }
    shared.changed.notify_all();
    for (const Message& message : all) {
      if (message.sends) continue;
      auto& posts = shared.posts[{message.peer, m.me}];
      if (!wait_for([&] { return !posts.empty(); })) return;
      if (posts.front().size != message.size) shared.fault = "a message of another size";
      std::memcpy(message.data, posts.front().from,
                  std::size_t(std::min(message.size, posts.front().size)));
      posts.front().taken->come();
      posts.pop_front();
      shared.changed.notify_all();
    }
    for (const auto& taken : sent)
      if (!wait_for([&] { return taken->came(); })) return;
  }

  World* world_;
  bool notices_;
  int splits_ = 0;
  bool in_group_ = false;
  std::vector<Message> messages_;
  std::vector<std::unique_ptr<Member>> aborted_;
};
static_assert(CollectiveLibrary<Library>);

// the backend ------------------------------------------------------------------------------------

/// The stream of the calling thread's card.
inline Queue*& stream_of_card() {
  static thread_local Queue* stream = nullptr;
  return stream;
}

/// Memory of a card: no host looks inside, and it is given back when the card is done with it.
class Memory {
 public:
  explicit Memory(bytes size) : arena_(size) {}
  ~Memory() { stream_of_card()->mark()->wait(); }
  std::byte* at(bytes offset, bytes count) { return arena_.at(offset, count); }
  std::byte* base() const { return arena_.base(); }
  bytes size() const { return arena_.size(); }
  bytes high_water() const { return arena_.high_water(); }

 private:
  ctrain::Arena arena_;
};

/// Memory of a host that a card reads and writes by itself.
class Staging {
 public:
  explicit Staging(bytes size) : memory_(std::size_t(size)) {}
  ~Staging() { stream_of_card()->mark()->wait(); }
  std::byte* data() { return memory_.data(); }

 private:
  std::vector<std::byte> memory_;
};

/// Models Replays as Cuda does: run() returns at once, calls follow each other on one stream. Where
/// `is_walked` is set, its host walks again instead of what is replayed.
class Card {
 public:
  using Arena = Memory;
  using Staging = emulated::Staging;
  struct Recording {
    std::shared_ptr<Graph> graph{};
    std::function<void()> walk{};
  };

  Card() { stream_of_card() = &stream_; }

  int workers() const { return 1; }
  Queue* stream() { return &stream_; }
  void before_waiting(std::function<void()> act) { before_waiting_ = std::move(act); }
  void synchronize() {
    if (before_waiting_) before_waiting_();
    stream_.mark()->wait();
  }
  void read(void* host, const void* device, bytes count) { copy(host, device, count); }
  void write(void* device, const void* host, bytes count) { copy(device, host, count); }
  template <class Call>
    requires requires(CpuReference& reference, const Call& call) {
      reference.run(call);
    }
  void run(const Call& call) {
    stream_.push([this, call] { reference_.run(call); });
  }

  template <class Body> Recording capture(Body&& body) {
    ++captures;
    if (is_walked) return {.walk = body};
    auto graph = std::make_shared<Graph>(stream_);
    try {
      body();
    } catch (...) {
      graph->forget();
      throw;
    }
    graph->end();
    return {.graph = graph};
  }
  void replay(Recording& recording) {
    ++replays;
    if (recording.walk) return recording.walk();
    stream_.push([graph = recording.graph] { graph->run(); });
  }
  static Staging staging(bytes size) { return Staging(size); }
  void write_later(void* to, const std::byte* from, bytes count) { copy_later(to, from, count); }
  void read_later(std::byte* to, const void* from, bytes count) { copy_later(to, from, count); }

  bool is_walked = false;
  int captures = 0, replays = 0;

 private:
  void copy(void* to, const void* from, bytes count) {
    synchronize();
    std::memcpy(to, from, std::size_t(count));
  }
  void copy_later(void* to, const void* from, bytes count) {
    if (stream_.captured() != nullptr) throw std::logic_error("a copy inside of what is recorded");
    stream_.push([=] { std::memcpy(to, from, std::size_t(count)); });
  }

  CpuReference reference_;
  std::function<void()> before_waiting_;
  Queue stream_;  // ends first
};
static_assert(Replays<Card>);

}  // namespace emulated
