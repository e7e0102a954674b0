/// \file  How ranks that torchrun or a script started find each other: variables, and a star of sockets.   floor 5: backend
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/policy/grid.hpp>

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
  int rank = 0;                      // RANK
  int ranks = 1;                     // WORLD_SIZE
  std::string master = "127.0.0.1";  // MASTER_ADDR: where rank 0 is
  int port = 29500;                  // MASTER_PORT
  double deadline = 60;              // seconds without a word from another rank
};

// functions --------------------------------------------------------------------------------------

/// The environment's, as torchrun, mpirun or srun sets it; throws Error on one that says too little
/// or cannot be. With none of them: one rank. mpirun and srun say nothing of where rank 0 is: this
/// host, unless MASTER_ADDR names another.
inline RankVariables rank_variables() {
  const auto number = [](const char* name, int least, int most, const char* fallback = nullptr) {
    const char* text = std::getenv(name);
    if (text == nullptr) text = fallback;
    if (text == nullptr)
      throw Error(
          std::string("variable ") + name, "it is not set, but others of a launcher's are",
          "Start the program with torchrun, mpirun or srun, or set all of RANK, WORLD_SIZE, "
          "MASTER_ADDR and MASTER_PORT");
    int value = 0;
    const char* end = text + std::strlen(text);
    const auto [stop, fault] = std::from_chars(text, end, value);
    if (fault != std::errc() || stop != end || value < least || value > most)
      throw Error(std::string("variable ") + name, "'" + std::string(text) + "' is no such number",
                  "Give one from " + std::to_string(least) + " to " + std::to_string(most));
    return value;
  };
  constexpr std::pair<const char*, const char*> launchers[] = {
      {"RANK", "WORLD_SIZE"},
      {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
      {"PMI_RANK", "PMI_SIZE"},
      {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"}};
  RankVariables v;
  for (const auto& [rank, ranks] : launchers) {
    const bool torchrun = rank == launchers[0].first;
    if (std::getenv(rank) == nullptr || (!torchrun && std::getenv(ranks) == nullptr)) continue;
    v.ranks = number(ranks, 1, 1 << 20);
    v.rank = number(rank, 0, v.ranks - 1);
    v.port = number("MASTER_PORT", 1, 65535, torchrun ? nullptr : "29500");
    if (const char* master = std::getenv("MASTER_ADDR")) v.master = master;
    return v;
  }
  return v;
}

namespace rendezvous {

/// What comes on a line: nothing (the other end is gone, or silent for the deadline), a rank's
/// values, or what went wrong where.
enum class Frame : std::uint8_t { none, values, trouble };

inline std::string text_of(std::span<const std::byte> text) {
  return {reinterpret_cast<const char*>(text.data()), text.size()};
}

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
  bool send(Frame kind, std::span<const std::byte> from) const {
    const std::uint64_t head[] = {std::uint64_t(kind), from.size()};
    return send(std::as_bytes(std::span(head))) && send(from);
  }
  /// What came, into `to`.
  Frame receive(std::vector<std::byte>& to) const {
    std::uint64_t head[2] = {};
    if (!receive(std::as_writable_bytes(std::span(head))) || head[1] > largest_message ||
        head[0] > std::uint64_t(Frame::trouble))
      return Frame::none;
    to.resize(head[1]);
    return receive(std::span(to)) ? Frame(head[0]) : Frame::none;
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
  using Frame = rendezvous::Frame;

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
  /// As a policy has it: throws Error on every rank where not `ranks` of them were started.
  Rendezvous(const Grid&, double deadline, int ranks) : Rendezvous(launched(deadline, ranks)) {}

  int rank() const { return v_.rank; }
  int ranks() const { return v_.ranks; }

  /// Every rank's bytes, in rank order, to every rank; nobody leaves before all came. Where one
  /// does not come, or has asked around, all others throw an Error that says so.
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) {
    std::vector<std::vector<std::byte>> all(std::size_t(v_.ranks));
    if (v_.rank == 0) {
      all[0].assign(mine.begin(), mine.end());
      for (int r = 1; r < v_.ranks; ++r) {
        const Frame frame = line(r).receive(all[std::size_t(r)]);
        if (frame != Frame::values) fail(tell_all(what_came(frame, r, all[std::size_t(r)])));
      }
      for (int r = 1; r < v_.ranks; ++r)
        for (const auto& one : all)
          if (!line(r).send(Frame::values, one)) fail(tell_all(is_missing(r)));
    } else {
      if (!line(0).send(Frame::values, mine)) fail(is_missing(0));
      for (auto& one : all)
        if (const Frame frame = line(0).receive(one); frame != Frame::values)
          fail(what_came(frame, 0, one));
    }
    return all;
  }

  /// What is wrong, as far as the others tell within `seconds`: "rank 2 ended, or said nothing",
  /// or "" where all still answer. For a rank that was disturbed, after which it is to end; `mine`
  /// says at what.
  std::string ask_around(const std::string& mine, double seconds) {
    std::vector<std::byte> text;
    if (v_.rank == 0) {
      std::string verdict;
      const auto begin = Clock::now();
      for (int r = 1; r < v_.ranks; ++r) {
        const double left = seconds - std::chrono::duration<double>(Clock::now() - begin).count();
        rendezvous::set_deadline(line(r).socket(), std::max(left, 1e-3));
        if (line(r).receive(text) == Frame::none)
          verdict += (verdict.empty() ? "" : "; ") + is_missing(r);
      }
      return tell_all(verdict);
    }
    if (!line(0).send(Frame::trouble, std::as_bytes(std::span(mine)))) return is_missing(0);
    rendezvous::set_deadline(line(0).socket(), 2 * seconds);
    for (;;) {
      const Frame frame = line(0).receive(text);
      if (frame == Frame::none) return is_missing(0);
      if (frame == Frame::trouble) return rendezvous::text_of(text);
    }
  }

 private:
  static RankVariables launched(double deadline, int ranks) {
    RankVariables v = rank_variables();
    v.deadline = deadline;
    if (v.ranks != ranks)
      throw Error("ranks",
                  std::to_string(v.ranks) + (v.ranks == 1 ? " was" : " were") +
                      " started, but the policy splits a step over " + std::to_string(ranks) +
                      " (parallel)",
                  "Start it with: torchrun --no-python --nproc-per-node " + std::to_string(ranks) +
                      " PROGRAM, or mpirun -n " + std::to_string(ranks) + " PROGRAM");
    return v;
  }

  const Line& line(int to) const { return lines_[std::size_t(to)]; }
  static std::string is_missing(int other) {
    return "rank " + std::to_string(other) + " ended, or said nothing";
  }
  std::string what_came(Frame frame, int from, std::span<const std::byte> text) const {
    if (frame == Frame::none)
      return is_missing(from) + " for " + std::to_string(int(v_.deadline)) + " seconds";
    return v_.rank == 0
               ? "rank " + std::to_string(from) + " has given up at " + rendezvous::text_of(text)
               : rendezvous::text_of(text);
  }
  /// From rank 0, to whoever is still there.
  std::string tell_all(const std::string& verdict) const {
    for (int r = 1; r < v_.ranks; ++r)
      line(r).send(Frame::trouble, std::as_bytes(std::span(verdict)));
    return verdict;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error("rank " + std::to_string(v_.rank), what,
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
    if (!lines_[0].send(std::as_bytes(std::span(who)))) fail(is_missing(0));
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
