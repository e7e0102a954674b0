// Zeroing memory.
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
