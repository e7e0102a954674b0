// Many lanes at once: order within each, and no lane that waits for another.
#include <catch2/catch.hpp>

#include "comm_ranks.hpp"

using namespace ctrain;

namespace {

constexpr double patience = 60;

/// A transfer of whole numbers, which sums hold exactly, and what its memory must have at the end.
struct Planned {
  Transfer transfer;
  std::vector<float> data, expected;
};

/// `rounds` transfers on every lane that a rank of a grid has: each group's collectives in turn,
/// and with the stages beside it, messages both ways. The k-th on a lane carries numbers of its
/// own.
class Plan {
 public:
  Plan(const Grid& grid, int rank, int rounds) : grid_(grid), me_(grid.at(rank)), rank_(rank) {
    for (int k = 0; k < rounds; ++k) {
      for (const Group group : {Group::data, Group::tensor, Group::model, Group::world})
        if (grid.size(group) > 1) add_collective(group, k);
      for (const int step : {-1, 1})
        if (me_.pipeline + step >= 0 && me_.pipeline + step < grid.pipeline) {
          const int peer = grid.rank({me_.data, me_.tensor, me_.pipeline + step});
          add_message(EventKind::send, peer, rank, k);
          add_message(EventKind::receive, peer, peer, k);
        }
    }
  }
  std::vector<std::vector<Planned>> lanes{12};

 private:
  static float number(int rank, int lane, int k) { return float(rank * 64 + lane * 7 + k % 5 + 1); }
  static std::size_t count(int lane, int k) { return std::size_t(1 + (lane * 37 + k * 101) % 900); }

  void add_collective(Group group, int k) {
    const int lane = int(group), n = grid_.size(group);
    const auto kind = Collective(k % 2 * 2);  // all_reduce or all_gather
    const std::size_t size = count(lane, k);
    Planned p;
    p.data.assign(size, number(rank_, lane, k));
    p.expected.assign(size, 0);
    for (int i = 0; i < n; ++i) {
      const float theirs = number(grid_.member(group, me_, i), lane, k);
      const bytes whole = bytes(size * sizeof(float));
      for (std::size_t e = 0; e < size; ++e) {
        const bytes at = bytes(e * sizeof(float));
        if (kind == Collective::all_reduce || (at >= chunk_begin(whole, DType::fp32, n, i) &&
                                               at < chunk_begin(whole, DType::fp32, n, i + 1)))
          p.expected[e] += theirs;
      }
    }
    p.transfer = {.collective = kind, .group = group};
    lanes[lane].push_back(std::move(p));
  }
  void add_message(EventKind kind, int peer, int from, int k) {
    const int sends = kind == EventKind::send;
    Planned p;
    p.expected.assign(count(from, k), number(from, 5, k));
    p.data.assign(p.expected.size(), sends ? p.expected[0] : -1);
    p.transfer = {.kind = kind, .peer = peer};
    lanes[4 + 2 * sends + (peer > rank_)].push_back(std::move(p));
  }

  Grid grid_;
  Coordinates me_;
  int rank_;
};

/// Starts the transfers of a plan in an order that is random across lanes, waits for them in
/// another, some while others are not started yet; true if each left what it should.
template <class C> bool all_arrive(C& communicator, Plan& plan, unsigned seed) {
  std::minstd_rand dice(seed);
  std::vector<std::size_t> next(plan.lanes.size());
  std::vector<std::pair<int, Planned*>> open;
  const auto wait_for_one = [&] {
    const std::size_t i = dice() % open.size();
    communicator.wait(open[i].first);
    const bool right = open[i].second->data == open[i].second->expected;
    open.erase(open.begin() + std::ptrdiff_t(i));
    return right;
  };
  bool right = true;
  for (std::size_t left = plan.lanes.size(); left > 0;) {
    const std::size_t lane = dice() % plan.lanes.size();
    left = std::size_t(std::count_if(plan.lanes.begin(), plan.lanes.end(), [&](const auto& l) {
      return next[std::size_t(&l - plan.lanes.data())] < l.size();
    }));
    if (next[lane] == plan.lanes[lane].size()) continue;
    Planned& p = plan.lanes[lane][next[lane]++];
    p.transfer.data = p.data.data();
    p.transfer.size = bytes(p.data.size() * sizeof(float));
    open.emplace_back(communicator.start(p.transfer), &p);
  }
  while (!open.empty()) right &= wait_for_one();
  return right;
}

void check_grid(const Grid& grid, int rounds, unsigned seed) {
  std::vector<char> right(grid.ranks());
  const auto errors = ranks::run<ranks::Hesitant>(
      grid, patience,
      [&](Transfers<ranks::Hesitant>& communicator) {
        const int me = communicator.rank();
        Plan plan(grid, me, rounds);
        right[me] = all_arrive(communicator, plan, seed * 64 + unsigned(me));
      },
      seed);
  CAPTURE(grid.data, grid.tensor, grid.pipeline, seed, errors);
  CHECK(ranks::none_failed(errors));
  CHECK(std::count(right.begin(), right.end(), 1) == grid.ranks());
}

}  // namespace

TEST_CASE("backend.comm.lanes_keep_their_order_in_any_interleaving") {
  for (unsigned seed = 1; seed <= 5; ++seed)
    for (const Grid grid : {Grid{2, 2, 2}, Grid{4, 1, 1}, Grid{1, 3, 2}, Grid{1, 1, 4}})
      check_grid(grid, 12, seed);
}

TEST_CASE("backend.comm.more_open_transfers_than_there_is_room_for_make_room") {
  check_grid({2, 1, 2}, 400, 1);
}

TEST_CASE("backend.comm.a_lane_goes_on_while_another_waits_for_a_late_rank") {
  // Rank 1 joins the sum only after it has the message that rank 0 starts after the sum.
  const auto errors = ranks::run({2, 1, 1}, patience, [&](Threads& communicator) {
    float sum = 1, message = float(communicator.rank());
    const Transfer reduce{.data = &sum, .size = sizeof sum};
    if (communicator.rank() == 0) {
      const int first = communicator.start(reduce);
      communicator.wait(communicator.start(
          {.kind = EventKind::send, .peer = 1, .data = &message, .size = sizeof message}));
      communicator.wait(first);
    } else {
      communicator.wait(communicator.start(
          {.kind = EventKind::receive, .peer = 0, .data = &message, .size = sizeof message}));
      communicator.wait(communicator.start(reduce));
    }
    if (sum != 2 || message != 0) throw Error("sum", "is wrong", "");
  });
  CHECK(ranks::none_failed(errors));
}
