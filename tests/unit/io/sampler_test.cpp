#include <ctrain/io/sampler.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "text_support.hpp"

namespace {

using namespace ctrain;
using namespace text_support;
using Ints = std::vector<std::int32_t>;

/// Samples of the given lengths; token t of sample i is 1000 * (i + 1) + t, its label i.
Dataset data_of(const std::vector<int>& lengths) {
  Dataset data;
  data.source = "f.json";
  data.pad_id = 99;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    for (int t = 0; t < lengths[i]; ++t) data.token_ids.push_back(std::int32_t(1000 * (i + 1)) + t);
    data.first_token.push_back(std::int64_t(data.token_ids.size()));
    data.first_segment.push_back(lengths[i] / 2);
    data.labels.push_back(std::int32_t(i));
    data.ids.push_back(std::int64_t(i));
  }
  return data;
}

Dataset varied(int samples) {
  std::vector<int> lengths;
  for (int i = 0; i < samples; ++i) lengths.push_back(3 + i * 7 % 29);
  return data_of(lengths);
}

/// Buffers of a shape's bounds, filled with rubbish to see what fill() writes.
struct Buffers {
  Ints token_ids, token_types, positions, first_row, lengths, labels;
  std::vector<std::uint32_t> row_keys;
  BatchView view;

  explicit Buffers(const Batch& shape)
      : token_ids(std::size_t(shape.rows()), -7),
        token_types(token_ids),
        positions(token_ids),
        first_row(std::size_t(shape.sentence_bound() + 1), -7),
        lengths(std::size_t(shape.sentence_bound()), -7),
        labels(lengths),
        row_keys(token_ids.size(), 7777777) {
    view = {token_ids.data(), token_types.data(), positions.data(), row_keys.data(),
            first_row.data(), lengths.data(),     labels.data()};
  }
};

template <class Column> auto head(const Column& column, int count) {
  return Column(column.begin(), column.begin() + count);
}

Ints order_of(Sampler& sampler, const Batch& shape) {
  Buffers buffers(shape);
  Ints order;
  while (sampler.fill(buffers.view))
    order.insert(order.end(), sampler.samples(0).begin(), sampler.samples(0).end());
  return order;
}

constexpr Batch padded{.sentences = 2, .length = 6};
constexpr Batch packed{.packed_tokens = 40, .sentences = 3, .length = 40};

}  // namespace

TEST_CASE("io.sampler.a_padded_batch_has_length_rows_for_each_sentence") {
  const Dataset data = data_of({4, 6, 3});
  Sampler sampler(data, padded);
  CHECK(sampler.batches() == 2);
  Buffers out(padded);
  REQUIRE(sampler.fill(out.view, 5));
  CHECK(out.view.rows == 12);
  CHECK(out.view.sentences == 2);
  CHECK(out.token_ids == Ints{1000, 1001, 1002, 1003, 99, 99, 2000, 2001, 2002, 2003, 2004, 2005});
  CHECK(out.token_types == Ints{0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1});
  CHECK(out.positions == Ints{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5});
  CHECK(out.first_row == Ints{0, 6, 12});
  CHECK(out.lengths == Ints{4, 6});
  CHECK(out.labels == Ints{0, 1});
  for (std::uint32_t row = 0; row < 12; ++row)
    CHECK(out.row_keys[row] == (5 + row / 6) * 512 + row % 6);

  REQUIRE(sampler.fill(out.view, 7));
  CHECK(out.view.rows == 12);  // 6 rounded up to 16, at most the bound
  CHECK(out.view.sentences == 1);
  CHECK(head(out.first_row, 2) == Ints{0, 6});
  CHECK(out.token_ids == Ints{3000, 3001, 3002, 99, 99, 99, 0, 0, 0, 0, 0, 0});
  CHECK(out.positions == Ints{0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0});
  CHECK(out.row_keys[5] == 7 * 512 + 5);
  CHECK(out.row_keys[6] == 0);
  CHECK(Ints(sampler.samples(0).begin(), sampler.samples(0).end()) == Ints{2});
  CHECK_FALSE(sampler.fill(out.view));
}

TEST_CASE("io.sampler.a_packed_batch_lies_end_to_end_and_is_rounded_to_16_rows") {
  const Dataset data = data_of({4, 6, 3, 20, 19, 2});
  Sampler sampler(data, packed);
  CHECK(sampler.batches() == 3);
  Buffers out(packed);
  REQUIRE(sampler.fill(out.view, 100));  // three sentences is the bound
  CHECK(out.view.sentences == 3);
  CHECK(out.view.rows == 16);
  CHECK(head(out.token_ids, 16) == Ints{1000, 1001, 1002, 1003, 2000, 2001, 2002, 2003, 2004, 2005,
                                        3000, 3001, 3002, 0, 0, 0});
  CHECK(head(out.token_types, 16) == Ints{0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0});
  CHECK(head(out.positions, 16) == Ints{0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2, 0, 0, 0});
  CHECK(out.first_row == Ints{0, 4, 10, 13});
  CHECK(out.lengths == Ints{4, 6, 3});
  CHECK(out.labels == Ints{0, 1, 2});
  CHECK(out.row_keys[0] == 100 * 512);
  CHECK(out.row_keys[9] == 101 * 512 + 5);
  CHECK(out.row_keys[12] == 102 * 512 + 2);
  CHECK(out.row_keys[13] == 0);
  CHECK(out.token_ids[16] == -7);  // rows that are not computed stay as they were

  REQUIRE(sampler.fill(out.view));  // 20 + 19 fit into 40 tokens, 2 more do not
  CHECK(out.view.sentences == 2);
  CHECK(out.view.rows == 40);  // 39 rounded up would be 48: the bound
  CHECK(out.first_row[2] == 39);
  CHECK(out.token_ids[39] == 0);
  REQUIRE(sampler.fill(out.view));
  CHECK(out.view.sentences == 1);
  CHECK(out.view.rows == 16);
  CHECK_FALSE(sampler.fill(out.view));
}

TEST_CASE("io.sampler.rows_are_rounded_to_a_step_of_the_shape") {
  const Batch shape{.packed_tokens = 4096, .length = 64};  // steps of 64 rows
  const Dataset data = data_of({40, 25});
  Sampler sampler(data, shape);
  Buffers out(shape);
  REQUIRE(sampler.fill(out.view));
  CHECK(out.view.rows == 128);
  CHECK(out.first_row[2] == 65);
  CHECK(out.token_ids[127] == 0);
  CHECK(out.token_ids[128] == -7);
}

TEST_CASE("io.sampler.another_seed_takes_over") {
  const Dataset data = varied(50);
  Sampler sampler(data, packed, 1);
  Sampler other(data, packed, 2);
  sampler.start({}, 2);
  CHECK(order_of(sampler, packed) == order_of(other, packed));
}

TEST_CASE("io.sampler.without_a_seed_the_order_is_the_files") {
  const Dataset data = varied(50);
  Sampler sampler(data, packed);
  Ints all(50);
  std::iota(all.begin(), all.end(), 0);
  CHECK(order_of(sampler, packed) == all);
  sampler.start({.epoch = 1});
  CHECK(order_of(sampler, packed) == all);
}

TEST_CASE("io.sampler.every_epoch_is_a_permutation_of_its_own") {
  const Dataset data = varied(50);
  Sampler sampler(data, packed, 42);
  std::set<Ints> orders;
  for (std::int64_t epoch = 0; epoch < 5; ++epoch) {
    sampler.start({.epoch = epoch});
    const Ints order = order_of(sampler, packed);
    orders.insert(order);
    CHECK(std::set<std::int32_t>(order.begin(), order.end()).size() == 50);
    CHECK(order.size() == 50);
  }
  CHECK(orders.size() == 5);
  Sampler other(data, packed, 43);
  CHECK_FALSE(orders.contains(order_of(other, packed)));
}

TEST_CASE("io.sampler.the_shuffle_is_frozen") {
  Ints order(10);
  shuffle(order, 42, 0);
  CHECK(order == Ints{6, 0, 7, 1, 5, 4, 2, 3, 8, 9});
  shuffle(order, 0x123456789abcdef0u, std::int64_t{1} << 40);
  CHECK(order == Ints{1, 7, 5, 2, 4, 3, 9, 8, 0, 6});
}

TEST_CASE("io.sampler.the_shuffle_is_even") {
  std::map<Ints, int> counts;
  Ints order(4);
  for (std::int64_t epoch = 0; epoch < 24000; ++epoch) {
    shuffle(order, 1, epoch);
    ++counts[order];
  }
  CHECK(counts.size() == 24);
  double chi_squared = 0;
  for (const auto& [_, count] : counts) chi_squared += (count - 1000.0) * (count - 1000.0) / 1000.0;
  CHECK(chi_squared < 49.7);  // 23 degrees of freedom: p = 0.001; the draws are fixed
}

TEST_CASE("io.sampler.the_number_of_batches_is_known_in_advance") {
  const Dataset data = varied(200);
  for (const Batch& shape :
       {packed, Batch{.sentences = 7, .length = 40}, Batch{.packed_tokens = 1000, .length = 64}}) {
    Sampler sampler(data, shape, 7);
    Buffers out(shape);
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      const std::int64_t known = Sampler(data, shape, 7).batches(epoch);
      sampler.start({.epoch = epoch});
      CHECK(sampler.batches() == known);
      std::int64_t count = 0;
      while (sampler.fill(out.view)) {
        ++count;
        CHECK(sampler.position().batch == count);
        CHECK(out.view.rows <= shape.rows());
        CHECK(out.view.sentences <= shape.sentence_bound());
        CHECK((out.view.rows % shape.row_step() == 0 || out.view.rows == shape.rows()));
      }
      CHECK(count == known);
    }
  }
  CHECK(Sampler(data, {.sentences = 7, .length = 40}).batches() == 29);  // ceil(200 / 7)
}

TEST_CASE("io.sampler.a_restored_position_gives_the_same_batches") {
  const Dataset data = varied(100);
  Sampler sampler(data, packed, 3);
  sampler.start({.epoch = 2});
  Buffers out(packed);
  for (int i = 0; i < 5; ++i) sampler.fill(out.view);
  const SamplerPosition saved = sampler.position();
  CHECK(saved.epoch == 2);
  CHECK(saved.batch == 5);

  Sampler resumed(data, packed, 3);
  resumed.start(saved);
  CHECK(resumed.position() == saved);
  CHECK(resumed.batches() == sampler.batches());
  Buffers again(packed);
  while (sampler.fill(out.view)) {
    REQUIRE(resumed.fill(again.view));
    CHECK(std::ranges::equal(sampler.samples(0), resumed.samples(0)));
    CHECK(head(out.token_ids, out.view.rows) == head(again.token_ids, again.view.rows));
    CHECK(sampler.position() == resumed.position());
  }
  CHECK_FALSE(resumed.fill(again.view));
  resumed.start(sampler.position());  // saved after the last batch of an epoch
  CHECK_FALSE(resumed.fill(again.view));
}

TEST_CASE("io.sampler.an_epoch_goes_on_in_another_shape") {
  const Dataset data = varied(100);
  const Batch wider{.packed_tokens = 300, .length = 64};
  Sampler before(data, packed, 3);
  Ints order = order_of(before, packed);
  before.start({});
  Buffers out(packed);
  for (int i = 0; i < 4; ++i) before.fill(out.view);
  const SamplerPosition saved = before.position();

  Sampler after(data, wider, 3);
  after.start(saved);
  const std::int64_t total = after.batches();
  const Ints rest = order_of(after, wider);
  order.erase(order.begin(), order.begin() + saved.sample);
  CHECK(rest == order);
  CHECK(after.position().batch == total);
}

TEST_CASE("io.sampler.what_is_opened_together_is_what_comes_one_after_the_other") {
  const Dataset data = varied(60);
  for (const int together : {1, 2, 3, 5, 64}) {
    Sampler one(data, packed, 9), many(data, packed, 9);
    Buffers expected(packed), out(packed);
    while (const int count = many.open(together)) {
      CHECK(count <= together);
      for (int i = 0; i < count; ++i) {
        REQUIRE(one.fill(expected.view, 3));
        CHECK(many.sentences(i) == expected.view.sentences);
        CHECK(std::ranges::equal(many.samples(i), one.samples(0)));
      }
      many.fill(count - 1, out.view, 3);  // in any order
      CHECK(out.view.rows == expected.view.rows);
      CHECK(head(out.token_ids, out.view.rows) == head(expected.token_ids, out.view.rows));
      CHECK(head(out.row_keys, out.view.rows) == head(expected.row_keys, out.view.rows));
      CHECK(many.position() == one.position());
    }
    CHECK_FALSE(one.fill(expected.view));
  }
}

TEST_CASE("io.sampler.no_samples_is_an_error") {
  const Dataset data = data_of({});
  CHECK(error_of([&] { Sampler(data, packed); }) ==
        "f.json: no samples. Give a file with at least one line");
}

TEST_CASE("io.sampler.a_sample_longer_than_the_shape_is_an_error") {
  const Dataset data = data_of({6, 41});
  CHECK(error_of([&] { Sampler(data, packed); }) ==
        "f.json:2: 41 tokens, but a micro-batch holds samples of 40. Encode with max_length 40 or "
        "less");
  CHECK_THAT(error_of([&] { Sampler(data, padded); }),
             Catch::Contains("f.json:2: 41 tokens") && Catch::Contains("max_length 6"));
  const Dataset huge = data_of({513});
  CHECK_THAT(error_of([&] { Sampler(huge, {.packed_tokens = 1024}); }),
             Catch::Contains("max_length 512"));
}

TEST_CASE("io.sampler.a_shape_without_rows_is_an_error") {
  const Dataset data = data_of({3});
  const std::string text =
      "policy.batch: no micro-batch has this shape. Set length from 1 to 512, and packed_tokens or "
      "sentences above 0";
  for (const Batch& shape :
       {Batch{.sentences = 0, .length = 8}, Batch{.sentences = 2, .length = 0},
        Batch{.sentences = 2, .length = 513}, Batch{.sentences = -1, .length = 8},
        Batch{.packed_tokens = -1, .sentences = 1}, Batch{.sentences = 1 << 30, .length = 8}})
    CHECK(error_of([&] { Sampler(data, shape); }) == text);
}

TEST_CASE("io.sampler.a_position_outside_of_the_data_is_an_error") {
  const Dataset data = varied(10);
  Sampler sampler(data, packed);
  CHECK(error_of([&] { sampler.start({.epoch = 1, .batch = 4, .sample = 11}); }) ==
        "f.json: the saved position (epoch 1, sample 11) is outside of its 10 samples. Resume with "
        "the "
        "training file that the checkpoint was made with");
  CHECK_THROWS_AS(sampler.start({.epoch = -1}), Error);
  CHECK_THROWS_AS(sampler.start({.batch = -1}), Error);
  CHECK_THROWS_AS(sampler.start({.sample = -1}), Error);
}

TEST_CASE("io.sampler.too_many_sentences_in_a_step_is_an_error") {
  const Dataset data = data_of({3});
  Sampler sampler(data, packed);
  Buffers out(packed);
  CHECK(error_of([&] { sampler.fill(out.view, 8388608); }) ==
        "accumulation: one optimizer step has more than 8388608 sentences. Accumulate fewer "
        "micro-batches");
  sampler.start({});
  REQUIRE(sampler.fill(out.view, 8388607));
  CHECK(out.row_keys[2] == 0xfffffe02u);
}
