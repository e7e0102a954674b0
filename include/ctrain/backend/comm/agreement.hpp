/// \file  Ranks compare what they are about to do, before they do it.   floor 5: backend
#pragma once

#include <ctrain/backend/comm/transfer.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/core/hash.hpp>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>

namespace ctrain {

/// Something that must be the same on all ranks: a hash of the schedule, a number of samples.
struct Claim {
  const char* name = "";
  std::uint64_t value = 0;
};

namespace agreement {

/// "0x12 on ranks 0, 1; 0x34 on rank 2".
inline std::string sides(const std::map<std::uint64_t, std::vector<int>>& ranks_of) {
  std::string text;
  for (const auto& [value, ranks] : ranks_of) {
    char number[32];
    std::snprintf(number, sizeof number, "%#llx", static_cast<unsigned long long>(value));
    text += (text.empty() ? "" : "; ") + std::string(number) + " on rank";
    if (ranks.size() > 1) text += "s";
    for (std::size_t i = 0; i < ranks.size(); ++i)
      text += (i == 0 ? " " : ", ") + std::to_string(ranks[i]);
  }
  return text;
}

/// Throws where the values that the ranks have for one claim differ.
inline void require_one_value(const std::string& name, const std::vector<std::uint64_t>& values) {
  std::map<std::uint64_t, std::vector<int>> ranks_of;
  for (std::size_t r = 0; r < values.size(); ++r) ranks_of[values[r]].push_back(int(r));
  if (ranks_of.size() > 1)
    throw Error("ranks disagree", name + " is " + sides(ranks_of),
                "Start all ranks with the same program, flags and data");
}

}  // namespace agreement

/// Returns on all ranks, or throws the same Error on all, which names the first claim that differs,
/// its values and who has them.
template <Communicator C> void agree(C& communicator, std::span<const Claim> claims) {
  std::vector<std::uint64_t> mine{0};
  Hash names;
  for (const Claim& claim : claims) {
    names.add_bytes(claim.name, std::strlen(claim.name) + 1);
    mine.push_back(claim.value);
  }
  mine[0] = names.value;
  const auto all = communicator.gather(std::as_bytes(std::span(mine)));
  for (std::size_t i = 0; i < mine.size(); ++i) {
    std::vector<std::uint64_t> values;
    for (const std::vector<std::byte>& theirs : all) {
      values.push_back(0);
      if ((i + 1) * sizeof(std::uint64_t) <= theirs.size())
        std::memcpy(&values.back(), theirs.data() + i * sizeof(std::uint64_t),
                    sizeof(std::uint64_t));
    }
    agreement::require_one_value(i == 0 ? "the list of what ranks compare" : claims[i - 1].name,
                                 values);
  }
}

template <Communicator C> void agree(C& communicator, std::initializer_list<Claim> claims) {
  agree(communicator, std::span(claims.begin(), claims.size()));
}

}  // namespace ctrain
