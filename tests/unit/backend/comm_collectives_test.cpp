// Collectives between threads against sums and copies in plain loops, to the bit.
#include <catch2/catch.hpp>

#include <cstring>

#include "comm_ranks.hpp"

using namespace ctrain;

namespace {

constexpr double patience = 60;

/// What each member brings: numbers whose sum depends on the order of additions.
template <class T> std::vector<std::vector<T>> random_payloads(int members, int count) {
  std::mt19937 dice(unsigned(members * 1000003 + count));
  std::normal_distribution<float> normal;
  std::vector<std::vector<T>> payloads(members, std::vector<T>(count));
  for (std::vector<T>& payload : payloads)
    for (T& element : payload) element = T(normal(dice) * float(1 << dice() % 12));
  return payloads;
}

/// The sum of one element in the order that the lists of exchanges fix: a balanced tree that pairs
/// members half the group apart first; where members are no power of two, around the ring up to the
/// chunk's owner.
template <class T>
T sum_in_order(const std::vector<std::vector<T>>& payloads, std::size_t at, int owner) {
  const auto add = [](T a, T b) { return T(float(a) + float(b)); };
  const int n = int(payloads.size());
  if (!is_power_of_two(n)) {
    T sum = payloads[(owner + 1) % n][at];
    for (int i = 2; i <= n; ++i) sum = add(sum, payloads[(owner + i) % n][at]);
    return sum;
  }
  std::vector<T> sums;
  for (const std::vector<T>& payload : payloads) sums.push_back(payload[at]);
  for (int half = n / 2; half >= 1; half /= 2)
    for (int m = 0; m < half; ++m) sums[m] = add(sums[m], sums[m + half]);
  return sums[0];
}

template <class T> bool same_bits(const T* a, const T* b, std::size_t count) {
  return count == 0 || std::memcmp(a, b, count * sizeof(T)) == 0;
}

/// Runs one collective on `members` ranks and compares what it promises to leave behind.
template <class T> bool is_right(Collective kind, int members, int count) {
  const auto payloads = random_payloads<T>(members, count);
  const auto begin = [&](int i) {
    return chunk_begin(bytes(count) * sizeof(T), dtype_of<T>, members, i) / bytes(sizeof(T));
  };
  std::vector<T> expected(count);
  for (int owner = 0; owner < members; ++owner)
    for (auto i = begin(owner); i < begin(owner + 1); ++i)
      expected[i] =
          kind == Collective::all_gather ? payloads[owner][i] : sum_in_order(payloads, i, owner);
  std::vector<char> right(members);
  const auto errors = ranks::run({members, 1, 1}, patience, [&](Threads& communicator) {
    const int me = communicator.rank();
    std::vector<T> mine = payloads[me];
    communicator.wait(communicator.start({.collective = kind,
                                          .data = mine.data(),
                                          .size = bytes(count * sizeof(T)),
                                          .element = dtype_of<T>}));
    const bool own_only = kind == Collective::reduce_scatter;
    const auto first = own_only ? begin(me) : 0, last = own_only ? begin(me + 1) : count;
    right[me] =
        same_bits(mine.data() + first, expected.data() + first, last - first) &&
        (members == 1 || communicator.sent() <= bytes_sent(kind, members, count * sizeof(T)) +
                                                    2 * members * bytes(sizeof(T)));
  });
  return ranks::none_failed(errors) && std::count(right.begin(), right.end(), 1) == members;
}

template <class T> void check_sizes() {
  for (const Collective kind :
       {Collective::all_reduce, Collective::reduce_scatter, Collective::all_gather})
    for (int members = 1; members <= 8; ++members) {
      std::minstd_rand dice(unsigned(members * 31 + int(kind)));
      for (const int count : {0, 1, members, int(dice() % 1000), int(dice() % 100000)}) {
        CAPTURE(int(kind), members, count);
        CHECK(is_right<T>(kind, members, count));
      }
    }
}

}  // namespace

TEST_CASE("backend.comm.collectives_equal_plain_sums_to_the_bit_in_fp32") {
  check_sizes<float>();
}

TEST_CASE("backend.comm.collectives_equal_plain_sums_to_the_bit_in_bf16") {
  check_sizes<bf16>();
}

TEST_CASE("backend.comm.payloads_of_many_pieces_arrive_whole") {
  const int piece = int(piece_size / bytes(sizeof(float)));
  for (const Collective kind :
       {Collective::all_reduce, Collective::reduce_scatter, Collective::all_gather}) {
    CHECK(is_right<float>(kind, 2, 10 * piece));      // chunks of exactly five pieces
    CHECK(is_right<float>(kind, 2, 5 * piece + 77));  // no multiple of anything
    CHECK(is_right<float>(kind, 3, 7 * piece + 5));
    CHECK(is_right<float>(kind, 4, 9 * piece + 1));
    CHECK(is_right<bf16>(kind, 5, 8 * piece + 3));
  }
}

TEST_CASE("backend.comm.all_to_all_takes_one_half_out_and_brings_the_other_in") {
  for (const int members : {2, 3, 4, 8})
    for (const int chunk : {1, 5, 100000}) {
      const auto value = [](int from, int to, int i) { return float(i * 64 + from * 8 + to); };
      std::vector<char> right(members);
      const auto errors = ranks::run({members, 1, 1}, patience, [&](Threads& communicator) {
        const int me = communicator.rank(), half = members * chunk;
        std::vector<float> payload(2 * half, -1);
        for (int i = 0; i < half; ++i) payload[i] = value(me, i / chunk, i % chunk);
        const bytes size = bytes(sizeof(float)) * 2 * half;
        communicator.wait(communicator.start(
            {.collective = Collective::all_to_all, .data = payload.data(), .size = size}));
        right[me] = communicator.sent() == bytes_sent(Collective::all_to_all, members, size);
        for (int i = 0; i < half; ++i) {
          const int other = i / chunk;
          right[me] &= payload[i] == value(me, other, i % chunk);
          right[me] &= payload[half + i] == (other == me ? -1 : value(other, me, i % chunk));
        }
      });
      CHECK((ranks::none_failed(errors) && std::count(right.begin(), right.end(), 1) == members));
    }
}

TEST_CASE("backend.comm.gather_brings_all_values_in_rank_order") {
  for (const int members : {1, 2, 3, 8}) {
    std::vector<char> right(members);
    const auto errors = ranks::run({1, 1, members}, patience, [&](Threads& communicator) {
      const int me = communicator.rank();
      right[me] = true;
      for (int round = 0; round < 20; ++round) {
        const auto value = [&](int r) {  // some ranks have nothing to say
          return std::vector<std::byte>(std::size_t(r * round % 7), std::byte(r + round));
        };
        const auto all = communicator.gather(value(me));
        right[me] &= int(all.size()) == members;
        for (int r = 0; r < members; ++r) right[me] &= all[r] == value(r);
      }
    });
    CHECK(ranks::none_failed(errors));
    CHECK(std::count(right.begin(), right.end(), 1) == members);
  }
}

TEST_CASE("backend.comm.nobody_leaves_gather_before_everybody_came") {
  std::atomic<int> came{0};
  std::vector<int> seen(5);
  const auto errors = ranks::run({5, 1, 1}, patience, [&](Threads& communicator) {
    std::this_thread::sleep_for(std::chrono::milliseconds(7 * communicator.rank()));
    ++came;
    communicator.gather({});
    seen[communicator.rank()] = came;
  });
  CHECK(ranks::none_failed(errors));
  CHECK(seen == std::vector<int>(5, 5));
}
