#include <ctrain/core/checksum.hpp>

#include <catch2/catch.hpp>

#include <vector>

TEST_CASE("core.checksum.sees_every_changed_bit_and_every_length") {
  std::vector<unsigned char> data(1000);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<unsigned char>(i * 37 + 11);
  const std::uint64_t whole = ctrain::checksum(data.data(), data.size());
  for (std::size_t bit = 0; bit < 8 * data.size(); ++bit) {
    data[bit / 8] ^= static_cast<unsigned char>(1 << bit % 8);
    REQUIRE(ctrain::checksum(data.data(), data.size()) != whole);
    data[bit / 8] ^= static_cast<unsigned char>(1 << bit % 8);
  }
  CHECK(ctrain::checksum(data.data(), data.size()) == whole);
  for (std::size_t size = 0; size + 1 < data.size(); ++size)
    REQUIRE(ctrain::checksum(data.data(), size) != ctrain::checksum(data.data(), size + 1));
}
