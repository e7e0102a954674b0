#include <ctrain/io/wordpiece.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "text_support.hpp"
#include <nlohmann/json.hpp>

namespace {

using namespace ctrain;
using namespace text_support;
using Ids = std::vector<std::int32_t>;

const std::string golden = CTRAIN_TEST_DATA "/tokenizer/";

Vocabulary toy() {
  return {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a",
          "##a",   "b",     "花",    "呗",    "un",     "##able"};
}

WordPiece toy_tokenizer(TokenizerKind kind = TokenizerKind::slow) {
  return WordPiece(toy(), 128, kind, "vocab.txt");
}

Ids tokenize(const WordPiece& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.tokenize(text, ids);
  return ids;
}

struct Rows {
  const char* name;
  TokenizerKind kind;
};
constexpr Rows both[] = {{"slow", TokenizerKind::slow}, {"fast", TokenizerKind::fast}};

nlohmann::json read_golden() {
  return nlohmann::json::parse(std::ifstream(golden + "golden.json"));
}

}  // namespace

TEST_CASE("io.wordpiece.ids_of_hard_texts_equal_both_hugging_face_tokenizers") {
  const nlohmann::json rows = read_golden();
  for (const Rows& side : both) {
    const WordPiece tokenizer(golden + "vocab.txt", 256, side.kind);
    for (const auto& row : rows[side.name]["texts"]) {
      INFO(side.name << " " << row.dump());
      CHECK(tokenize(tokenizer, row["text"].get<std::string>()) == row["ids"].get<Ids>());
    }
  }
}

TEST_CASE("io.wordpiece.pairs_and_truncation_equal_both_hugging_face_tokenizers") {
  const nlohmann::json rows = read_golden();
  for (const Rows& side : both) {
    const WordPiece tokenizer(golden + "vocab.txt", 256, side.kind);
    for (const auto& row : rows[side.name]["pairs"]) {
      INFO(side.name << " " << row.dump());
      Ids ids{77};  // encode() appends
      const EncodedLength length =
          tokenizer.encode(row["a"].get<std::string>(), row["b"].get<std::string>(),
                           row["max_length"].get<int>(), ids);
      ids.erase(ids.begin());
      CHECK(ids == row["ids"].get<Ids>());
      const Ids types = row["types"].get<Ids>();
      CHECK(length.tokens == int(types.size()));
      CHECK(length.first_segment == int(std::count(types.begin(), types.end(), 0)));
    }
  }
}

TEST_CASE("io.wordpiece.the_kinds_differ_where_the_documentation_says") {
  const WordPiece slow(golden + "vocab.txt", 256, TokenizerKind::slow);
  const WordPiece fast(golden + "vocab.txt", 256, TokenizerKind::fast);
  CHECK(tokenize(slow, "a\U0002B820") != tokenize(fast, "a\U0002B820"));  // the typo in the range
  CHECK(tokenize(slow, "a\U0002B920") == tokenize(fast, "a\U0002B920"));
  CHECK(tokenize(slow, "a\u0378") != tokenize(fast, "a\u0378"));  // unassigned
  CHECK(tokenize(slow, "\u2E43a") != tokenize(fast, "\u2E43a"));  // Unicode 9
}

TEST_CASE("io.wordpiece.an_empty_text_makes_a_single_sequence") {
  Ids ids;
  CHECK(toy_tokenizer().encode("花呗", "", 16, ids) == EncodedLength{4, 4});
  CHECK(ids == Ids{2, 8, 9, 3});
  ids.clear();
  CHECK(toy_tokenizer().encode("", "花呗", 16, ids) == EncodedLength{2, 2});
  CHECK(ids == Ids{2, 3});
  ids.clear();
  CHECK(toy_tokenizer().encode("花", "呗", 16, ids) == EncodedLength{5, 3});
  CHECK(ids == Ids{2, 8, 3, 9, 3});
}

TEST_CASE("io.wordpiece.the_shortest_length_keeps_only_special_tokens") {
  Ids ids;
  CHECK(toy_tokenizer().encode("花呗", "花", 3, ids) == EncodedLength{3, 2});
  CHECK(ids == Ids{2, 3, 3});
}

TEST_CASE("io.wordpiece.bytes_that_are_not_utf8_are_dropped") {
  CHECK(tokenize(toy_tokenizer(), "a\xff\xc3(b") == Ids{5, 1, 7});
  CHECK(tokenize(toy_tokenizer(), "\xe8\x8a") == Ids{});
}

TEST_CASE("io.wordpiece.a_text_appends_to_what_is_there") {
  Ids ids{42};
  toy_tokenizer().tokenize("unable", ids);
  CHECK(ids == Ids{42, 10, 11});
}

TEST_CASE("io.wordpiece.vocabulary_lines_end_like_in_python") {
  const TemporaryFolder folder;
  CHECK(read_vocabulary(folder.file("lines.txt", "a\r\n\nb\rc\u2028d\n ##e \nf")) ==
        Vocabulary{"a", "", "b", "c\u2028d", " ##e ", "f"});
  CHECK(read_vocabulary(folder.file("empty.txt", "")).empty());
}

TEST_CASE("io.wordpiece.of_equal_lines_the_last_counts") {
  Vocabulary tokens = toy();
  tokens.push_back("a");
  CHECK(tokenize(WordPiece(tokens, 128, TokenizerKind::slow, "v"), "a") == Ids{12});
}

TEST_CASE("io.wordpiece.mask_is_optional") {
  Vocabulary tokens = toy();
  tokens[4] = "[unused1]";
  const WordPiece tokenizer(tokens, 128, TokenizerKind::slow, "v");
  CHECK(tokenize(tokenizer, "[MASK]") == Ids{1, 1, 1});
  CHECK(tokenize(toy_tokenizer(), "[MASK]") == Ids{4});
}

TEST_CASE("io.wordpiece.names_tokens_and_special_ids") {
  const WordPiece tokenizer = toy_tokenizer();
  CHECK(tokenizer.size() == 12);
  CHECK(tokenizer.token(8) == "花");
  CHECK(tokenizer.pad() == 0);
  CHECK(tokenizer.unk() == 1);
  CHECK(tokenizer.cls() == 2);
  CHECK(tokenizer.sep() == 3);
}

TEST_CASE("io.wordpiece.a_missing_vocabulary_is_an_error") {
  CHECK_THROWS_AS(WordPiece("/no/such/vocab.txt", 128), Error);
  CHECK_THAT(error_of([] { WordPiece("/no/such/vocab.txt", 128); }),
             Catch::StartsWith("/no/such/vocab.txt: cannot read (No such file or directory)"));
}

TEST_CASE("io.wordpiece.a_vocabulary_without_a_special_token_is_an_error") {
  for (std::size_t i = 0; i < 4; ++i) {
    Vocabulary tokens = toy();
    const std::string token = std::exchange(tokens[i], "other");
    CHECK(error_of([&] { WordPiece(tokens, 128, TokenizerKind::slow, "v.txt"); }) ==
          "v.txt: has no line " + token +
              ". Take the vocab.txt that came with the model: one token a line, " + token +
              " among them");
  }
}

TEST_CASE("io.wordpiece.a_vocabulary_larger_than_the_model_is_an_error") {
  CHECK(error_of([] { WordPiece(toy(), 11, TokenizerKind::slow, "v.txt"); }) ==
        "v.txt: has 12 tokens, but the model has only 11 word embeddings (vocab_size). Take the "
        "vocab.txt that came with the model, or a model whose vocab_size is at least 12");
  CHECK_NOTHROW(WordPiece(toy(), 12, TokenizerKind::slow, "v.txt"));
}

TEST_CASE("io.wordpiece.a_vocabulary_that_is_not_utf8_is_an_error") {
  const TemporaryFolder folder;
  const std::string path = folder.file("gbk.txt", "[PAD]\n[UNK]\n\xbb\xa8\n");
  CHECK(error_of([&] { WordPiece(path, 128); }) ==
        path + ":3: not UTF-8 text. Take the vocab.txt that came with the model, unchanged");
}

TEST_CASE("io.wordpiece.real_vocabularies_have_the_known_special_ids") {
  const std::string folder = CTRAIN_REAL_DATA "/vocab/";
  if (!std::filesystem::exists(folder)) {
    WARN("no real data: skipped");
    return;
  }
  for (const char* name :
       {"erlangshen-megatronbert-1.3b-vocab.txt", "bert-base-chinese-vocab.txt"}) {
    const WordPiece tokenizer(folder + name, 21248);
    CHECK(tokenizer.size() == 21128);
    CHECK(tokenizer.pad() == 0);
    CHECK(tokenizer.unk() == 100);
    CHECK(tokenizer.cls() == 101);
    CHECK(tokenizer.sep() == 102);
    CHECK(tokenize(tokenizer, "[MASK]***") == Ids{103, 115, 115, 115});
  }
}
