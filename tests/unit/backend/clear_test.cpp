// Zeroing and copying memory.
#include "oracle.hpp"

using namespace ctrain;

TEST_CASE("backend.clear.zeroes_exactly_what_it_is_given") {
  for (std::int64_t size : {0, 1, 4000, (1 << 21) + 12}) {
    oracle::on_every_backend(
        [&](auto& backend) {
          std::vector<char> bytes(std::size_t(size) + 1, char(7));
          backend.run(Clear{bytes.data(), size});
          return std::vector<oracle::Floats>{oracle::Floats(bytes.begin(), bytes.end())};
        },
        {[&] {
          oracle::Doubles expected(std::size_t(size) + 1);
          expected.back() = 7;
          return expected;
        }()},
        {0});
  }
}

TEST_CASE("backend.clear.copies_exactly_what_it_is_given") {
  for (std::int64_t size : {0, 1, 4000, (1 << 21) + 12}) {
    std::vector<char> from(std::size_t(size) + 1);
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = char(i * 7 % 101);
    oracle::Doubles expected(from.begin(), from.end());
    expected.back() = 103;
    oracle::on_every_backend(
        [&](auto& backend) {
          std::vector<char> to(from.size(), char(103));
          backend.run(Copy{to.data(), from.data(), size});
          return std::vector<oracle::Floats>{oracle::Floats(to.begin(), to.end())};
        },
        {expected}, {0});
  }
}
