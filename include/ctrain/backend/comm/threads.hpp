/// \file  Ranks that are threads of one process, for tests: messages without any buffer.   floor 5: backend
#pragma once

#include <ctrain/backend/comm/transfers.hpp>

#include <deque>
#include <map>
#include <tuple>

namespace ctrain {

/// Where the links of all ranks meet. A message is copied when both its send and its receive were
/// started, and not before.
class ThreadHub {
 public:
  explicit ThreadHub(int ranks) : closed_(std::size_t(ranks)) {}

  int ranks() const { return int(closed_.size()); }
  int send(int from, int to, int tag, std::span<const std::byte> data) {
    return post(from, to, tag, {const_cast<std::byte*>(data.data()), data.size()}, true);
  }
  int receive(int from, int to, int tag, std::span<std::byte> space) {
    return post(from, to, tag, space, false);
  }
  /// What became of a message of `rank`.
  MessageState state(int rank, int id) {
    const std::lock_guard lock(mutex_);
    const Post post = posts_[id];
    if (post.state == PostState::open && !closed_[other(rank, post)]) return MessageState::open;
    remove(id);
    if (post.state == PostState::unequal)
      throw Error("rank " + std::to_string(rank),
                  "rank " + std::to_string(other(rank, post)) + " counts other bytes than " +
                      std::to_string(post.memory.size()) + " in a message",
                  "Start all ranks with the same program and flags");
    return post.state == PostState::ended ? MessageState::ended : MessageState::lost;
  }
  void cancel(int id) {
    const std::lock_guard lock(mutex_);
    remove(id);
  }
  /// That rank answers nobody from now on.
  void close(int rank) {
    const std::lock_guard lock(mutex_);
    closed_[rank] = true;
  }

 private:
  enum class PostState : std::uint8_t { open, ended, unequal };
  struct Post {
    int from = 0, to = 0, tag = 0;
    bool sends = false;
    std::span<std::byte> memory{};
    PostState state = PostState::open;
  };
  /// Sends, or receives, of one tag from one rank to another, the oldest first.
  using Lane = std::tuple<int, int, int, bool>;

  static Lane lane_of(const Post& post) { return {post.from, post.to, post.tag, post.sends}; }
  static int other(int rank, const Post& post) { return rank == post.from ? post.to : post.from; }

  int post(int from, int to, int tag, std::span<std::byte> memory, bool sends) {
    const std::lock_guard lock(mutex_);
    const int id = next_++;
    posts_[id] = {from, to, tag, sends, memory};
    open_[{from, to, tag, sends}].push_back(id);
    match(open_[{from, to, tag, true}], open_[{from, to, tag, false}]);
    return id;
  }
  void match(std::deque<int>& sends, std::deque<int>& receives) {
    for (; !sends.empty() && !receives.empty(); sends.pop_front(), receives.pop_front()) {
      Post &from = posts_[sends.front()], &to = posts_[receives.front()];
      const bool equal = from.memory.size() == to.memory.size();
      if (equal) std::copy(from.memory.begin(), from.memory.end(), to.memory.begin());
      from.state = to.state = equal ? PostState::ended : PostState::unequal;
    }
  }
  void remove(int id) {
    std::erase(open_[lane_of(posts_[id])], id);
    posts_.erase(id);
  }

  std::mutex mutex_;
  std::map<int, Post> posts_;
  std::map<Lane, std::deque<int>> open_;
  std::vector<char> closed_;
  int next_ = 0;
};

/// One rank's end of a hub; at its end the others see that it is gone.
class ThreadLink {
 public:
  using Message = int;

  ThreadLink(ThreadHub& hub, int rank) : hub_(&hub), rank_(rank) {}
  ~ThreadLink() { hub_->close(rank_); }
  ThreadLink(const ThreadLink&) = delete;
  ThreadLink& operator=(const ThreadLink&) = delete;

  int rank() const { return rank_; }
  int ranks() const { return hub_->ranks(); }
  Message send(int peer, int tag, std::span<const std::byte> data) {
    return hub_->send(rank_, peer, tag, data);
  }
  Message receive(int peer, int tag, std::span<std::byte> space) {
    return hub_->receive(peer, rank_, tag, space);
  }
  MessageState state(Message message) { return hub_->state(rank_, message); }
  void cancel(Message message) { hub_->cancel(message); }
  static void abandon() {}

 private:
  ThreadHub* hub_;
  int rank_;
};

static_assert(Link<ThreadLink>);

/// The communicator of a rank that is a thread: Threads(grid, deadline, hub, rank).
using Threads = Transfers<ThreadLink>;

static_assert(Communicator<Threads>);

}  // namespace ctrain
