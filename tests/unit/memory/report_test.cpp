#include <ctrain/memory/report.hpp>
#include <ctrain/policy/presets.hpp>

#include <catch2/catch.hpp>

namespace {

using namespace ctrain;

// The rule of thumb: 16 bytes a parameter in binary32, 20 in a 16-bit format.
static_assert(formula_of(Compute::fp32).sum() == 16 && formula_of(Compute::bf16).sum() == 20);
constexpr Policy policy{.batch = {.sentences = 4, .length = 512}, .device = a100_40gb};
static_assert(bytes_by_formula(policy) == 16 * 1257371650LL);

constexpr bool rows_sum_to_the_total(const Policy& p) {
  const Table<MemoryRow, 10> rows = rows_of(plan_memory(p), p);
  bytes planned = 0, formula = 0;
  for (int i = 0; i + 1 < rows.size; ++i) planned += rows[i].planned, formula += rows[i].by_formula;
  const MemoryRow& total = rows[rows.size - 1];
  return planned == total.planned && formula == total.by_formula && total.category == "total";
}
static_assert(rows_sum_to_the_total(policy));

}  // namespace

TEST_CASE("memory.report.numbers_read_well") {
  CHECK(with_commas(1257371650) == "1,257,371,650");
  CHECK(with_commas(-1000) == "-1,000");
  CHECK(with_commas(-100) == "-100");
  CHECK(with_commas(0) == "0");
  CHECK(in_GiB(24 * GiB) == "24.00");
  CHECK(in_GiB(24 * GiB + 1) == "24.01");  // never equal to a budget it exceeds
  CHECK(in_GiB(GiB / 2) == "0.50");
}

TEST_CASE("memory.report.names_what_the_formula_leaves_out") {
  const std::string text = render(plan_memory(policy), policy);
  CHECK(text.find("parameters         5,029,486,656    4.69     4.69\n") != std::string::npos);
  for (const char* left_out : {"weight copies", "activations", "workspace", "batch", "runtime"}) {
    const std::size_t row = text.find(left_out);
    REQUIRE(row != std::string::npos);
    CHECK(text[text.find('\n', row) - 1] == '-');
  }
}

TEST_CASE("memory.report.suggestions_read_as_policy_fields") {
  CHECK(text_of({Change::set_batch_packed_tokens_to, 1024, 0}) == "batch.packed_tokens = 1024");
  CHECK(text_of({Change::set_recompute_to_full_weights_to_plain_and_batch_sentences_to, 2, 0}) ==
        "recompute = full, weights = plain, batch.sentences = 2");
  CHECK(text_of({Change::get_a_device_of_GiB, 73, 0}) == "a device of 73 GiB");
  CHECK(text_of({}) == "nothing");
}
