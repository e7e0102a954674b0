/// \file  Ranks as a grid of data x tensor x pipeline, and the groups that talk to each other.   floor 1: policy
#pragma once

#include <ctrain/policy/policy.hpp>

#include <cstdint>

namespace ctrain {

/// Who takes part in a collective. `data`: ranks with the same parameters and other sentences.
/// `tensor`: ranks that compute the same sentences together. `model`: all ranks that hold one copy
/// of the model. `world`: all.
enum class Group : std::uint8_t { data, tensor, model, world };

/// A rank by its place on each axis.
struct Coordinates {
  int data = 0, tensor = 0, pipeline = 0;
};

/// Tensor ranks are neighbours, because they talk most; then data ranks, then pipeline stages.
struct Grid {
  int data = 1, tensor = 1, pipeline = 1;

  constexpr int ranks() const { return data * tensor * pipeline; }
  constexpr int rank(Coordinates c) const {
    return (c.pipeline * data + c.data) * tensor + c.tensor;
  }
  constexpr Coordinates at(int rank) const {
    return {rank / tensor % data, rank % tensor, rank / tensor / data};
  }
  constexpr int size(Group g) const {
    if (g == Group::data) return data;
    if (g == Group::tensor) return tensor;
    return g == Group::model ? tensor * pipeline : ranks();
  }
  /// The i-th member of the group that `c` belongs to.
  constexpr int member(Group g, Coordinates c, int i) const {
    if (g == Group::data) c.data = i;
    if (g == Group::tensor) c.tensor = i;
    if (g == Group::model) c.tensor = i % tensor, c.pipeline = i / tensor;
    return g == Group::world ? i : rank(c);
  }
  /// Which member of its group `c` is.
  constexpr int position(Group g, Coordinates c) const {
    if (g == Group::data) return c.data;
    if (g == Group::tensor) return c.tensor;
    return g == Group::model ? c.pipeline * tensor + c.tensor : rank(c);
  }
  friend constexpr bool operator==(const Grid&, const Grid&) = default;
};

constexpr Grid grid_of(const Parallel& p) {
  return {p.data, p.tensor, p.pipeline};
}

static_assert(Grid{2, 2, 2}.rank({1, 0, 1}) == 6 && Grid{2, 2, 2}.at(6).data == 1 &&
              Grid{2, 2, 2}.at(6).pipeline == 1);
static_assert(Grid{2, 2, 2}.member(Group::model, {1, 0, 0}, 3) == 7);

}  // namespace ctrain
