/// \file  The communicator of a dry run: what a rank with a card of its own gives it, without any.   floor 6: trainer
#pragma once

#include <ctrain/backend/comm/device_ranks.hpp>
#include <ctrain/backend/cuda/dry_run.hpp>
#include <ctrain/trainer/record.hpp>

#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace ctrain {

/// What one Comm was given, for a test of whether its members were given the same.
struct CommCall {
  enum class What : std::uint8_t { all_reduce, reduce_scatter, all_gather, send, receive };
  What what = What::all_reduce;
  int peer = -1;  // member, of a send or a receive
  bytes size = 0;
  int group = -1;  // those of one group happen together; -1: alone

  bool is_collective() const { return what < What::send; }
};

/// Models CollectiveLibrary: writes what goes to a card into a DryRun's list, and lists the calls
/// of each Comm. Moves nothing.
class DryLibrary {
  using What = CommCall::What;

 public:
  struct Comm {
    std::string name{};  // of all members, and of no other Comm
    int members = 0;
  };
  using Stream = std::string;
  using Event = int;

  explicit DryLibrary(DryRun& backend) : backend_(&backend) {}

  static std::vector<std::string> cards() {
    std::vector<std::string> names;
    for (int card = 0; card < most_members; ++card) names.push_back(std::to_string(card));
    return names;
  }
  static void select(int) {}
  static std::vector<std::byte> make_id() { return {}; }
  static Comm join(std::span<const std::byte>, int, int, const CommOptions& o) {
    return {o.name, o.members};
  }
  /// Members of two stages name their direction each from its own side.
  Comm split(const Comm&, int color, int, const CommOptions& o) {
    return {"split " + std::to_string(splits_++) + ", color " + std::to_string(color), o.members};
  }
  static void close(const Comm&) {}
  static void abort(std::span<const Comm>) {}
  static bool is_busy(const Comm&) { return false; }
  static std::string fault(const Comm&) { return ""; }

  static Stream make_stream(const char* name) { return std::string("stream ") + name; }
  Event make_event() {
    recorded_on_.emplace_back();
    return int(recorded_on_.size()) - 1;
  }
  static void destroy(const Stream&) {}
  static void destroy(Event) {}
  void record(Event event, const Stream& stream) { recorded_on_[std::size_t(event)] = stream; }
  void wait(const Stream& stream, Event event) {
    backend_->add({.kind = DeviceWork::Kind::event,
                   .what = stream + " waits for " + recorded_on_[std::size_t(event)]});
  }
  static bool is_done(Event) { return true; }
  static bool is_idle(const Stream&) { return true; }
  static bool is_capturing(const Stream&) { return false; }
  static void forget_capture(const Stream&) {}

  /// What the others would tell of their micro-batches: a sentence each.
  void announce(const Transfer& t) {
    transfer_ = t.name.what;
    if (t.kind != EventKind::collective || t.group != Group::world) return;
    Record record;
    record.result.sentences = record.result.micro_batches = 1;
    std::vector<std::byte> records(static_cast<std::size_t>(t.size));
    for (bytes at = 0; at + Split::record <= t.size; at += Split::record)
      std::memcpy(records.data() + at, &record, sizeof record);
    backend_->pretend(t.data, records);
  }
  void all_reduce(const Comm& c, const Stream& s, void*, std::int64_t count, DType element) {
    collective(c, s, What::all_reduce, Collective::all_reduce, count * size_of(element));
  }
  void reduce_scatter(const Comm& c, const Stream& s, const void*, void*, std::int64_t count,
                      DType element) {
    collective(c, s, What::reduce_scatter, Collective::reduce_scatter,
               count * size_of(element) * c.members);
  }
  void all_gather(const Comm& c, const Stream& s, const void*, void*, std::int64_t count,
                  DType element) {
    collective(c, s, What::all_gather, Collective::all_gather,
               count * size_of(element) * c.members);
  }
  void begin_group() { group_ = groups_++; }
  void end_group() { group_ = -1; }
  void send(const Comm& c, const Stream& s, const void*, bytes size, int to) {
    calls_[c.name].push_back({What::send, to, size, group_});
    add(s, "send to member " + std::to_string(to), size, double(size));
  }
  void receive(const Comm& c, const Stream& s, void*, bytes size, int from) {
    calls_[c.name].push_back({What::receive, from, size, group_});
    add(s, "receive from member " + std::to_string(from), size, 0);
  }
  void add(const Stream& stream, void* to, const void* summand, bytes size, DType element) {
    const auto typed = [&]<class T>(T* sum) {
      std::vector<DeviceWork> kernels;
      dry_run::Launches launches(kernels);
      cuda::convert(launches, sum, static_cast<const T*>(summand), size / bytes(sizeof(T)), true);
      kernels.back().what = stream + ": " + kernels.back().what;
      kernels.back().bytes_moved = 3.0 * double(size);
      backend_->add(kernels.back());
    };
    if (element == DType::bf16)
      typed(static_cast<bf16*>(to));
    else if (element == DType::fp16)
      typed(static_cast<fp16*>(to));
    else
      typed(static_cast<float*>(to));
  }

  const std::map<std::string, std::vector<CommCall>>& calls() const { return calls_; }

 private:
  void collective(const Comm& c, const Stream& s, What what, Collective kind, bytes payload) {
    constexpr const char* words[] = {"all_reduce", "reduce_scatter", "all_gather"};
    calls_[c.name].push_back({what, -1, payload, group_});
    add(s, words[int(what)], payload, double(bytes_sent(kind, c.members, payload)));
  }
  void add(const Stream& s, const std::string& what, bytes payload, double sent) {
    backend_->add(
        {.kind = DeviceWork::Kind::transfer,
         .what = s + ": " + what + ", " + std::to_string(payload) + " bytes (" + transfer_ + ")",
         .bytes_moved = sent});
  }

  DryRun* backend_;
  std::map<std::string, std::vector<CommCall>> calls_;
  std::vector<std::string> recorded_on_;  // by event
  const char* transfer_ = "";
  int splits_ = 0, groups_ = 0, group_ = -1;
};

static_assert(CollectiveLibrary<DryLibrary>);

/// The values of one rank, for all.
class DryControl {
 public:
  DryControl(int rank, int ranks) : rank_(rank), ranks_(ranks) {}
  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine) const {
    return std::vector<std::vector<std::byte>>(std::size_t(ranks_), {mine.begin(), mine.end()});
  }

 private:
  int rank_, ranks_;
};

/// Models Communicator as one rank of many that are not there: Nccl's own code over a library that
/// lists.
class DryRanks : public DeviceRanks<DryLibrary, DryControl> {
 public:
  DryRanks(DryRun& backend, int rank, const Policy& p)
      : DeviceRanks(grid_of(p.parallel), DeviceRanksOptions::of(p), DryLibrary(backend), rank,
                    p.parallel.ranks()) {}
};

static_assert(Communicator<DryRanks>);

}  // namespace ctrain
