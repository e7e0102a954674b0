#include <ctrain/io/dataset.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "text_support.hpp"

namespace {

using namespace ctrain;
using namespace text_support;

WordPiece toy_tokenizer() {
  return WordPiece({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"}, 7, TokenizerKind::slow,
                   "v");
}

Example example(std::string a, std::string b, std::optional<RawLabel> label, std::int64_t id) {
  return {std::move(a), std::move(b), std::move(label), id, id + 1};
}

/// The q-quantile of sorted lengths as numpy.percentile rounds to the nearest whole.
int quantile(const std::vector<int>& sorted, double q) {
  return sorted[std::size_t(std::lround(q * double(sorted.size() - 1)))];
}

}  // namespace

TEST_CASE("io.dataset.samples_lie_end_to_end") {
  const ExampleFile file{"f", {example("a b", "c", "x", 0), example("c", "", "y", 1)}};
  const LabelMap labels(file, 2);
  const Dataset data = encode_examples(file, toy_tokenizer(), &labels, 8);
  CHECK(data.size() == 2);
  CHECK(data.token_ids == std::vector<std::int32_t>{2, 4, 5, 3, 6, 3, 2, 6, 3});
  CHECK(data.first_token == std::vector<std::int64_t>{0, 6, 9});
  CHECK(data.first_segment == std::vector<std::int32_t>{4, 3});
  CHECK(data.labels == std::vector<std::int32_t>{0, 1});
  CHECK(data.ids == std::vector<std::int64_t>{0, 1});
  CHECK(data.length(0) == 6);
  CHECK(data.tokens(1).front() == 2);
  CHECK(data.source == "f");
  CHECK(data.pad_id == 0);
}

TEST_CASE("io.dataset.samples_are_truncated_to_max_length") {
  const ExampleFile file{"f", {example("a a a a a a", "b b b b b b", "x", 0)}};
  for (int length = 3; length <= 15; ++length)
    CHECK(encode_examples(file, toy_tokenizer(), nullptr, length).length(0) == length);
  CHECK(encode_examples(file, toy_tokenizer(), nullptr, 512).length(0) == 15);
}

TEST_CASE("io.dataset.without_a_label_map_no_sample_has_a_label") {
  const ExampleFile file{"f", {example("a", "b", "unknown", 0)}};
  CHECK(encode_examples(file, toy_tokenizer(), nullptr, 8).labels == std::vector<std::int32_t>{-1});
}

TEST_CASE("io.dataset.an_unknown_label_is_an_error_at_its_line") {
  const ExampleFile train{"train.json", {example("a", "b", "0", 0)}};
  const ExampleFile dev{"dev.json", {example("a", "b", "0", 0), example("a", "b", "1", 1)}};
  const LabelMap labels(train, 1);
  CHECK_THAT(error_of([&] { encode_examples(dev, toy_tokenizer(), &labels, 8); }),
             Catch::StartsWith("dev.json:2: label \"1\" does not occur in train.json"));
}

TEST_CASE("io.dataset.a_length_out_of_range_is_an_error") {
  const ExampleFile file{"f", {example("a", "b", "x", 0)}};
  for (const int length : {-1, 0, 2, 513})
    CHECK(error_of([&] { encode_examples(file, toy_tokenizer(), nullptr, length); }) ==
          "--max_length: " + std::to_string(length) +
              " tokens is no length of a pair. Set it from 3 to 512");
}

TEST_CASE("io.dataset.the_example_data_has_no_unknown_tokens_and_class_0_is_label_0") {
  const std::string folder = CTRAIN_TEST_DATA "/../../examples/data/";
  const WordPiece tokenizer(folder + "vocab.txt", 1024);
  const ExampleFile train = read_examples(folder + "train.json", {}, Labels::required);
  const ExampleFile dev = read_examples(folder + "dev.json", {}, Labels::required);
  const ExampleFile test = read_examples(folder + "test.json", {}, Labels::optional);
  const LabelMap labels(train, 2);
  CHECK(labels.raw(0) == RawLabel("0"));
  CHECK(encode_examples(train, tokenizer, &labels, 64).size() == 2400);
  CHECK(encode_examples(dev, tokenizer, &labels, 64).size() == 400);
  CHECK(encode_examples(test, tokenizer, nullptr, 64).ids.back() == 299);
  for (const ExampleFile* file : {&train, &dev, &test}) {
    const Dataset data = encode_examples(*file, tokenizer, nullptr, 512);
    CHECK(std::count(data.token_ids.begin(), data.token_ids.end(), tokenizer.unk()) == 0);
    for (std::int64_t i = 0; i < data.size(); ++i) REQUIRE(data.length(i) <= 63);
  }
}

TEST_CASE("io.dataset.afqmc_has_the_known_token_counts_and_is_read_in_under_two_seconds") {
  const std::string folder = CTRAIN_REAL_DATA;
  if (!std::filesystem::exists(folder + "/afqmc/train.json")) {
    WARN("no real data: skipped");
    return;
  }
  struct Known {
    const char* name;
    std::int64_t pairs, zeros, tokens;
    int median, most_95, most_99, longest;
  };
  const Known sets[] = {{"train", 34334, 23761, 1016807, 27, 48, 67, 157},
                        {"dev", 2878, 1957, 85271, 28, 48, 69, 102},
                        {"test", 3861, 0, 113320, 27, 48, 62, 116}};
  for (const TokenizerKind kind : {TokenizerKind::slow, TokenizerKind::fast}) {
    const WordPiece tokenizer(folder + "/vocab/erlangshen-megatronbert-1.3b-vocab.txt", 21248,
                              kind);
    for (const Known& known : sets) {
      const std::clock_t start = std::clock();  // of this process: others may load the machine
      const bool test = known.zeros == 0;
      const ExampleFile file = read_examples(folder + "/afqmc/" + known.name + ".json", {},
                                             test ? Labels::optional : Labels::required);
      std::optional<LabelMap> labels;
      if (!test) labels.emplace(file, 2);
      const Dataset data = encode_examples(file, tokenizer, labels ? &*labels : nullptr, 512);
      const double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;

      INFO(known.name << ": " << seconds << " s");
      CHECK(seconds < 2.0);
      CHECK(data.size() == known.pairs);
      if (!test) CHECK(std::count(data.labels.begin(), data.labels.end(), 0) == known.zeros);
      std::vector<int> lengths;
      for (std::int64_t i = 0; i < data.size(); ++i) lengths.push_back(data.length(i));
      std::sort(lengths.begin(), lengths.end());
      CHECK(std::int64_t(data.token_ids.size()) == known.tokens);
      CHECK(quantile(lengths, 0.5) == known.median);
      CHECK(quantile(lengths, 0.95) == known.most_95);
      CHECK(quantile(lengths, 0.99) == known.most_99);
      CHECK(lengths.back() == known.longest);
    }
  }
}
