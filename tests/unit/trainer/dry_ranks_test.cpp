// What ranks with a card each give NCCL in one step: walked one by one without any card, the calls
// of all members of every communicator are then laid side by side.
#include <ctrain/policy/presets.hpp>
#include <ctrain/trainer/dry_ranks.hpp>
#include <ctrain/trainer/step.hpp>

#include <catch2/catch.hpp>

#include <map>
#include <string>
#include <vector>

namespace {

using namespace ctrain;

constexpr ModelShape small{
    .vocabulary = 256, .positions = 48, .layers = 4, .hidden = 64, .heads = 4, .feed_forward = 128};

constexpr Policy policy_of(Parallel parallel, int stage, Deterministic bits,
                           Optimizer optimizer = {}) {
  return {.model = small,
          .batch = {.packed_tokens = 128, .sentences = 6, .length = 48, .accumulation = 2},
          .optimizer = optimizer,
          .parallel = parallel,
          .zero = {.stage = stage, .bucket = 64 * KiB},
          .deterministic = bits,
          .device = gpu_24gb};
}
constexpr auto free_order = Deterministic::fixed_layout;
constexpr auto invariant = Deterministic::layout_invariant;

struct two_of_zero_1 {
  static constexpr Policy policy = policy_of({.data = 2}, 1, free_order);
};
struct four_of_zero_3 {
  static constexpr Policy policy = policy_of({.data = 4}, 3, invariant);
};
struct eight_on_all_axes {
  static constexpr Policy policy =
      policy_of({.data = 2, .tensor = 2, .pipeline = 2, .sequence = true}, 1, free_order);
};
struct four_that_send_signs {
  static constexpr Policy policy =
      policy_of({.data = 4}, 0, free_order,
                {.kind = OptimizerKind::one_bit_adam, .compression = {.freeze_step = 1}});
};

/// Full micro-batches, as many as are asked for.
template <class P> struct Feed {
  static constexpr Batch batch = P::policy.batch;
  static int open(int count) { return count; }
  static int sentences(int) { return 2; }
  static void fill(int, BatchView& b, std::uint32_t) {
    b.rows = batch.rows(), b.sentences = 2;
    for (int s = 0; s <= 2; ++s) b.first_row[s] = s * batch.length;
    for (int s = 0; s < 2; ++s) b.lengths[s] = batch.length, b.labels[s] = 0;
  }
};

using Calls = std::map<std::string, std::vector<CommCall>>;

/// What one rank gives each of its communicators in `steps` steps, and what its card is given.
template <class P> struct Walked {
  Calls calls;
  std::vector<DeviceWork> list;
};
template <class P> Walked<P> walk(int rank, int steps) {
  DryRun backend;
  DryRanks ranks(backend, rank, P::policy);
  MemoryMap<P, DryRun::Arena> map(ranks.grid().at(rank));
  Step<P, DryRun, DryRanks> step(backend, map, ranks);
  Feed<P> feed;
  for (int i = 0; i < steps; ++i) step.train(feed, {.step = i, .learning_rate = 1e-5, .clip = 1});
  return {ranks.library().calls(), backend.take()};
}

/// One member of a communicator, on its way through its calls.
struct Member {
  std::vector<CommCall> calls{};
  std::size_t begin = 0, end = 0;  // those that are under way
  std::vector<bool> met{};         // which of them have met their counterpart

  bool over() const { return begin == calls.size(); }
  bool at_collective() const { return !over() && calls[begin].is_collective(); }
  /// Takes the next call, or group of calls, when all of the last one have met.
  void go_on() {
    for (std::size_t i = begin; i < end; ++i)
      if (!met[i - begin]) return;
    begin = end;
    if (over()) return;
    do ++end;
    while (calls[begin].group >= 0 && end < calls.size() && calls[end].group == calls[begin].group);
    met.assign(end - begin, false);
  }
};

/// A send of `from` and the receive that waits for it.
bool pair_up(std::vector<Member>& members, int from) {
  bool any = false;
  Member& sender = members[std::size_t(from)];
  for (std::size_t i = sender.begin; i < sender.end; ++i) {
    const CommCall& send = sender.calls[i];
    if (send.what != CommCall::What::send || sender.met[i - sender.begin]) continue;
    Member& receiver = members.at(std::size_t(send.peer));
    for (std::size_t j = receiver.begin; j < receiver.end; ++j) {
      const CommCall& receive = receiver.calls[j];
      if (receive.what != CommCall::What::receive || receive.peer != from ||
          receiver.met[j - receiver.begin])
        continue;
      CHECK(receive.size == send.size);
      sender.met[i - sender.begin] = receiver.met[j - receiver.begin] = true;
      any = true;
      break;
    }
  }
  return any;
}

/// True iff the members, with sends that wait for their receives, all come to their ends.
bool all_end(std::vector<Member> members) {
  for (bool moved = true; moved;) {
    moved = false;
    for (Member& m : members) m.go_on();
    bool together = true;
    for (const Member& m : members)
      together = together && m.at_collective() &&
                 m.calls[m.begin].what == members[0].calls[members[0].begin].what &&
                 m.calls[m.begin].size == members[0].calls[members[0].begin].size;
    if (together)
      for (Member& m : members) m.met[0] = moved = true;
    for (int from = 0; from < int(members.size()); ++from) moved |= pair_up(members, from);
  }
  for (const Member& m : members)
    if (!m.over()) return false;
  return true;
}

template <class P> std::vector<Walked<P>> all_ranks_match(int steps = 1) {
  std::map<std::string, std::vector<Member>> comms;
  std::vector<Walked<P>> ranks;
  for (int rank = 0; rank < P::policy.parallel.ranks(); ++rank) {
    ranks.push_back(walk<P>(rank, steps));
    for (const auto& [name, calls] : ranks.back().calls) comms[name].push_back({calls});
  }
  CHECK(comms.size() >= 2);
  for (const auto& [name, members] : comms) {
    INFO(name);
    CHECK(members.size() >= 2);
    CHECK(all_end(members));
  }
  return ranks;
}

int count(const Calls& calls, CommCall::What what) {
  int n = 0;
  for (const auto& [name, list] : calls)
    for (const CommCall& call : list) n += call.what == what;
  return n;
}

}  // namespace

TEST_CASE("trainer.dry_ranks.members_are_given_the_same") {
  using What = CommCall::What;
  const auto zero_1 = all_ranks_match<two_of_zero_1>();
  CHECK(count(zero_1[0].calls, What::reduce_scatter) > 0);
  CHECK(count(zero_1[0].calls, What::send) == 0);  // the library's own order of sums

  const auto zero_3 = all_ranks_match<four_of_zero_3>();
  CHECK(count(zero_3[0].calls, What::reduce_scatter) == 0);  // the fixed tree's
  CHECK(count(zero_3[0].calls, What::all_reduce) == 0);
  CHECK(count(zero_3[0].calls, What::send) > 0);
  CHECK(count(zero_3[0].calls, What::all_gather) > 0);

  const auto eight = all_ranks_match<eight_on_all_axes>();
  CHECK(count(eight[0].calls, What::send) > 0);  // between stages
  CHECK(count(eight[0].calls, What::receive) > 0);

  all_ranks_match<four_that_send_signs>(3);
}

TEST_CASE("trainer.dry_ranks.what_does_not_match_is_seen") {
  using What = CommCall::What;
  const CommCall send{What::send, 1, 64, -1}, receive{What::receive, 0, 64, -1},
      back{What::send, 0, 64, -1}, take{What::receive, 1, 64, -1};
  CHECK(all_end({{{send, take}}, {{receive, back}}}));
  CHECK_FALSE(all_end({{{send, take}}, {{back, receive}}}));  // both send first
  CHECK_FALSE(all_end({{{send}}, {{}}}));
  const CommCall sum{What::all_reduce, -1, 64, -1}, gather{What::all_gather, -1, 64, -1};
  CHECK(all_end({{{sum, gather}}, {{sum, gather}}}));
  CHECK_FALSE(all_end({{{sum, gather}}, {{gather, sum}}}));
  const CommCall there{What::send, 1, 64, 7}, here{What::receive, 1, 64, 7};
  const CommCall to{What::send, 0, 64, 3}, from{What::receive, 0, 64, 3};
  CHECK(all_end({{{there, here}}, {{to, from}}}));  // in one group they cross
}

/// A lane starts after what the step was given before, and the step goes on after that very
/// transfer: two gathers of stage 3 are under way at once.
TEST_CASE("trainer.dry_ranks.streams_wait_for_each_other") {
  const Walked<four_of_zero_3> rank = walk<four_of_zero_3>(1, 1);
  int to_lane = 0, to_step = 0, under_way = 0, most = 0;
  for (const DeviceWork& w : rank.list) {
    if (w.kind != DeviceWork::Kind::event) continue;
    const bool lane = w.what.ends_with(" waits for backend's stream");
    CHECK((lane || w.what.starts_with("backend's stream waits for stream ")));
    ++(lane ? to_lane : to_step);
    under_way += lane ? 1 : -1;
    most = std::max(most, under_way);
  }
  CHECK(to_lane == to_step);
  CHECK(to_lane > 0);
  CHECK(most >= 2);
}
