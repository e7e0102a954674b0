#include <ctrain/core/hash.hpp>
#include <ctrain/core/say.hpp>
#include <ctrain/core/table.hpp>
#include <ctrain/core/units.hpp>

#include <catch2/catch.hpp>

#include <type_traits>

namespace {

using namespace ctrain;

constexpr Table<int, 3> two_rows() {
  Table<int, 3> t;
  t.add(4);
  t.rows[t.add(5)] += 2;
  return t;
}
static_assert(two_rows().size == 2 && two_rows()[0] == 4 && two_rows()[1] == 7);

// FNV-1a of "a", and of nothing, as published by its authors.
static_assert(Hash{}.value == 0xcbf29ce484222325u);
static_assert(Hash{}.add_byte('a').value == 0xaf63dc4c8601ec8cu);

// Rounded up: a byte too many is a tenth more.
static_assert(std::is_same_v<say::gib<24 * GiB>, say::GiB<24, '.', 0>>);
static_assert(std::is_same_v<say::gib<24 * GiB + 1>, say::GiB<24, '.', 1>>);
static_assert(std::is_same_v<say::gib<0>, say::GiB<0, '.', 0>>);

}  // namespace

TEST_CASE("core.table.walks_its_rows_and_no_more") {
  int sum = 0;
  for (const int row : two_rows()) sum += row;
  CHECK(sum == 11);
}

TEST_CASE("core.hash.bytes_and_numbers_agree") {
  const unsigned char bytes[] = {0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01};
  CHECK(Hash{}.add(0x0123456789abcdefu).value == Hash{}.add_bytes(bytes, 8).value);
}
