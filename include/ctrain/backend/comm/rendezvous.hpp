/// \file  How ranks that torchrun or a script started find each other: variables, and a star of sockets.   floor 5: backend
#pragma once

#include <ctrain/core/error.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// What a launcher says to each process, in torchrun's words.
struct RankVariables {
  int rank = 0;          // RANK
  int ranks = 1;         // WORLD_SIZE
  int local_rank = 0;    // LOCAL_RANK: among those of this host
  std::string master;    // MASTER_ADDR: where rank 0 is
  int port = 29500;      // MASTER_PORT
  double deadline = 60;  // seconds without a word from another rank
};

// functions --------------------------------------------------------------------------------------

/// The environment's; throws Error on one that says too little or cannot be. Without RANK: one
/// rank.
inline RankVariables rank_variables() {
  const auto number = [](const char* name, int least, int most) {
    const char* text = std::getenv(name);
    if (text == nullptr)
      throw Error(std::string("variable ") + name, "it is not set, but RANK is",
                  "Start the program with torchrun or mpirun, or set all of RANK, WORLD_SIZE, "
                  "LOCAL_RANK, MASTER_ADDR and MASTER_PORT");
    int value = 0;
    const char* end = text + std::strlen(text);
    const auto [stop, fault] = std::from_chars(text, end, value);
    if (fault != std::errc() || stop != end || value < least || value > most)
      throw Error(std::string("variable ") + name, "'" + std::string(text) + "' is no such number",
                  "Give one from " + std::to_string(least) + " to " + std::to_string(most));
    return value;
  };
  RankVariables v;
  if (std::getenv("RANK") == nullptr) return v;
  v.ranks = number("WORLD_SIZE", 1, 1 << 20);
  v.rank = number("RANK", 0, v.ranks - 1);
  v.local_rank = number("LOCAL_RANK", 0, v.ranks - 1);
  v.port = number("MASTER_PORT", 1, 65535);
  const char* master = std::getenv("MASTER_ADDR");
  v.master = master == nullptr ? "127.0.0.1" : master;
  return v;
}

namespace rendezvous {

/// A connected socket, closed when it goes.
class Line {
 public:
  Line() = default;
  explicit Line(int socket) : socket_(socket) {}
  Line(Line&& other) noexcept : socket_(std::exchange(other.socket_, -1)) {}
  Line& operator=(Line&& other) noexcept {
    std::swap(socket_, other.socket_);
    return *this;
  }
  ~Line() {
    if (socket_ >= 0) close(socket_);
  }

  int socket() const { return socket_; }
  /// Both move all of it; false where the other end is gone, or silent for the deadline.
  bool send(std::span<const std::byte> from) const {
    while (!from.empty()) {
      const ssize_t sent = ::send(socket_, from.data(), from.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return false;
      from = from.subspan(std::size_t(sent));
    }
    return true;
  }
  bool receive(std::span<std::byte> to) const {
    while (!to.empty()) {
      const ssize_t got = recv(socket_, to.data(), to.size(), 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      to = to.subspan(std::size_t(got));
    }
    return true;
  }
  bool send_sized(std::span<const std::byte> from) const {
    const std::uint64_t size = from.size();
    return send(std::as_bytes(std::span(&size, 1))) && send(from);
  }
  bool receive_sized(std::vector<std::byte>& to) const {
    std::uint64_t size = 0;
    if (!receive(std::as_writable_bytes(std::span(&size, 1))) || size > largest_message)
      return false;
    to.resize(size);
    return receive(to);
  }

 private:
  static constexpr std::uint64_t largest_message = 1 << 28;  // small values: more is a stranger
  int socket_ = -1;
};

inline void set_deadline(int socket, double seconds) {
  timeval wait{};
  wait.tv_sec = time_t(seconds);
  wait.tv_usec = suseconds_t((seconds - double(wait.tv_sec)) * 1e6);
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
  const int at_once = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
}

}  // namespace rendezvous

// templates --------------------------------------------------------------------------------------

/// The control plane of ranks that share nothing but rank 0's address: rank 0 has a line to each
/// other rank. For small values, such as NCCL's identifier and what ranks compare at the start.
class Rendezvous {
  using Clock = std::chrono::steady_clock;
  using Line = rendezvous::Line;

 public:
  /// Throws Error where not all ranks come within the deadline.
  explicit Rendezvous(RankVariables v) : v_(std::move(v)) {
    if (v_.ranks == 1) return;
    lines_.resize(v_.rank == 0 ? std::size_t(v_.ranks) : 1);
    if (v_.rank == 0)
      take_calls();
    else
      call();
  }

  int rank() const { return v_.rank; }
  int ranks() const { return v_.ranks; }

  /// Every rank's bytes, in rank order, to every rank; nobody leaves before all came.
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) {
    std::vector<std::vector<std::byte>> all(std::size_t(v_.ranks));
    if (v_.rank == 0) {
      all[0].assign(mine.begin(), mine.end());
      for (std::size_t r = 1; r < all.size(); ++r)
        if (!lines_[r].receive_sized(all[r])) fail(int(r));
      for (std::size_t r = 1; r < all.size(); ++r)
        for (const auto& one : all)
          if (!lines_[r].send_sized(one)) fail(int(r));
    } else {
      if (!lines_[0].send_sized(mine)) fail(0);
      for (auto& one : all)
        if (!lines_[0].receive_sized(one)) fail(0);
    }
    return all;
  }

 private:
  [[noreturn]] void fail(int other) const {
    throw Error("rank " + std::to_string(v_.rank),
                "rank " + std::to_string(other) + " ended, or said nothing for " +
                    std::to_string(int(v_.deadline)) + " seconds",
                "Look at that rank's own last line; start all ranks together");
  }
  [[noreturn]] void fail_to_meet(const std::string& what) const {
    throw Error("rank " + std::to_string(v_.rank),
                what + " (" + v_.master + ", port " + std::to_string(v_.port) + ")",
                "Check MASTER_ADDR and MASTER_PORT, and that all " + std::to_string(v_.ranks) +
                    " ranks were started");
  }
  double left(Clock::time_point since) const {
    return v_.deadline - std::chrono::duration<double>(Clock::now() - since).count();
  }

  void take_calls() {
    const Line door(::socket(AF_INET6, SOCK_STREAM, 0));
    const int yes = 1, no = 0;
    setsockopt(door.socket(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(door.socket(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    sockaddr_in6 at{};
    at.sin6_family = AF_INET6;
    at.sin6_addr = in6addr_any;
    at.sin6_port = htons(std::uint16_t(v_.port));
    if (bind(door.socket(), reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 ||
        listen(door.socket(), v_.ranks) != 0)
      fail_to_meet("the port cannot be had: " + std::string(std::strerror(errno)));
    const auto begin = Clock::now();
    for (int missing = v_.ranks - 1; missing > 0;) {
      const double seconds = left(begin);
      if (seconds > 0) rendezvous::set_deadline(door.socket(), seconds);
      const int socket = seconds > 0 ? accept(door.socket(), nullptr, nullptr) : -1;
      if (socket < 0 && errno == EINTR) continue;
      if (socket < 0) fail_to_meet(std::to_string(missing) + " ranks did not come");
      missing -= welcome(Line(socket));
    }
  }
  /// 1 for a rank that was missing; a stranger is sent away.
  int welcome(Line line) {
    rendezvous::set_deadline(line.socket(), v_.deadline);
    std::int32_t who[2] = {};
    if (!line.receive(std::as_writable_bytes(std::span(who)))) return 0;
    if (who[1] != v_.ranks || who[0] < 1 || who[0] >= v_.ranks)
      fail_to_meet("a rank came that says it is " + std::to_string(who[0]) + " of " +
                   std::to_string(who[1]));
    Line& place = lines_[std::size_t(who[0])];
    if (place.socket() >= 0) fail_to_meet("rank " + std::to_string(who[0]) + " came twice");
    place = std::move(line);
    return 1;
  }

  void call() {
    const auto begin = Clock::now();
    addrinfo wanted{}, *found = nullptr;
    wanted.ai_socktype = SOCK_STREAM;
    const std::string port = std::to_string(v_.port);
    if (const int fault = getaddrinfo(v_.master.c_str(), port.c_str(), &wanted, &found); fault != 0)
      fail_to_meet("rank 0's address is unknown: " + std::string(gai_strerror(fault)));
    bool met = false;
    while (!met && left(begin) > 0) {
      for (const addrinfo* at = found; at != nullptr && !met; at = at->ai_next) met = reach(*at);
      if (!met) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    freeaddrinfo(found);
    if (!met) fail_to_meet("rank 0 does not answer");
    const std::int32_t who[2] = {v_.rank, v_.ranks};
    if (!lines_[0].send(std::as_bytes(std::span(who)))) fail(0);
  }
  bool reach(const addrinfo& at) {
    Line line(::socket(at.ai_family, at.ai_socktype, at.ai_protocol));
    if (connect(line.socket(), at.ai_addr, at.ai_addrlen) != 0) return false;
    rendezvous::set_deadline(line.socket(), v_.deadline);
    lines_[0] = std::move(line);
    return true;
  }

  RankVariables v_;
  std::vector<Line> lines_;  // of rank 0: one for each rank; of another: to rank 0
};

}  // namespace ctrain
