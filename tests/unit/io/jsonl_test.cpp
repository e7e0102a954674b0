#include <ctrain/io/jsonl.hpp>

#include <catch2/catch.hpp>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "text_support.hpp"
#include <sys/resource.h>
#include <unistd.h>

namespace {

using namespace ctrain;
using namespace text_support;

/// What the reader says about a file, with "F" for its path.
std::string complaint(std::string_view content, const FieldNames& names = {},
                      Labels labels = Labels::required) {
  const TemporaryFolder folder;
  const std::string path = folder.file("train.json", content);
  try {
    read_examples(path, names, labels);
  } catch (const Error& error) {
    std::string text = error.what();
    for (std::size_t at; (at = text.find(path)) != text.npos;) text.replace(at, path.size(), "F");
    return text;
  }
  return "no error";
}

std::vector<Example> read(std::string_view content, const FieldNames& names = {},
                          Labels labels = Labels::required) {
  const TemporaryFolder folder;
  return read_examples(folder.file("train.json", content), names, labels).examples;
}

const std::string good = R"({"sentence1": "a", "sentence2": "b", "label": "0"})";
const std::string mend = "Write one JSON object a line: mend or remove this one";

Example labelled(RawLabel label, std::int64_t line = 1) {
  Example example;
  example.label = std::move(label);
  example.line = line;
  return example;
}

ExampleFile file_of(const std::vector<RawLabel>& labels) {
  ExampleFile file{"train.json", {}};
  for (const RawLabel& label : labels)
    file.examples.push_back(labelled(label, std::int64_t(file.examples.size()) + 1));
  return file;
}

}  // namespace

TEST_CASE("io.jsonl.reads_texts_labels_ids_and_lines") {
  const auto examples = read(
      "{\"sentence1\": \"花呗\\u501f\\\"\", \"sentence2\": \"b\", \"label\": \"0\"}\n"
      "{\"label\": 1, \"id\": 7, \"sentence2\": \"\", \"sentence1\": \"c\", \"more\": [1]}\r\n"
      "{\"sentence1\": \"d\", \"label\": \"1\", \"id\": \"-9\"}");
  REQUIRE(examples.size() == 3);
  CHECK(examples[0].text_a == "花呗借\"");
  CHECK(examples[0].text_b == "b");
  CHECK(examples[0].label == RawLabel("0"));
  CHECK(examples[0].id == 0);
  CHECK(examples[1].label == RawLabel(std::int64_t{1}));
  CHECK(examples[1].id == 7);
  CHECK(examples[1].line == 2);
  CHECK(examples[2].text_b.empty());
  CHECK(examples[2].id == -9);
}

TEST_CASE("io.jsonl.field_names_are_flags") {
  const FieldNames names{.text_a = "text", .text_b = "", .label = "class", .id = "nr"};
  const auto examples = read(R"({"text": "t", "class": 3, "nr": 12.0, "sentence2": 5})", names);
  CHECK(examples[0].text_a == "t");
  CHECK(examples[0].text_b.empty());
  CHECK(examples[0].label == RawLabel(std::int64_t{3}));
  CHECK(examples[0].id == 12);
}

TEST_CASE("io.jsonl.test_files_need_no_labels_and_number_their_lines") {
  const auto examples = read(
      "{\"sentence1\": \"a\", \"sentence2\": \"b\"}\n{\"sentence1\": \"c\", \"sentence2\": "
      "\"d\"}\n",
      {}, Labels::optional);
  CHECK_FALSE(examples[0].label.has_value());
  CHECK(examples[1].id == 1);
}

TEST_CASE("io.jsonl.a_byte_order_mark_is_skipped_but_kept_inside_a_text") {
  CHECK(read("\xEF\xBB\xBF" + good).size() == 1);
  CHECK(read(R"({"sentence1": "a)"
             "\xEF\xBB\xBF"
             R"(", "sentence2": "b", "label": "0"})")[0]
            .text_a == "a\xEF\xBB\xBF");
}

TEST_CASE("io.jsonl.a_missing_file_is_an_error") {
  CHECK(error_of([] { read_examples("/no/such/train.json", {}, Labels::required); }) ==
        "/no/such/train.json: cannot read (No such file or directory). Check the path");
}

TEST_CASE("io.jsonl.an_empty_file_is_an_error") {
  CHECK(complaint("") == "F: an empty file. Put one JSON object on each line");
}

TEST_CASE("io.jsonl.an_empty_line_is_an_error") {
  CHECK(complaint(good + "\n\n") == "F:2: an empty line. " + mend);
}

TEST_CASE("io.jsonl.a_broken_line_is_an_error_with_its_number_and_cause") {
  const std::string text = complaint(good + "\n{\"sentence1\": \n");
  CHECK_THAT(text, Catch::StartsWith("F:2: not JSON (parse error at line 1, column 15: ") &&
                       Catch::Contains("unexpected end of input") && Catch::EndsWith("). " + mend));
  CHECK_THAT(complaint(good + good), Catch::StartsWith("F:1: not JSON ("));
  CHECK_THAT(complaint("{\"sentence1\": \"\\ud800\"}"), Catch::StartsWith("F:1: not JSON ("));
  CHECK(complaint("{\"sentence1\": 1e999}").find('\n') == std::string::npos);
}

TEST_CASE("io.jsonl.a_line_that_is_no_object_is_an_error") {
  CHECK(complaint("[1, 2]") == "F:1: a JSON array, not an object. " + mend);
  CHECK(complaint("12") == "F:1: a JSON number, not an object. " + mend);
}

TEST_CASE("io.jsonl.text_that_is_not_utf8_is_an_error") {
  CHECK(complaint(good + "\n{\"sentence1\": \"\xbb\xa8\"}") ==
        "F:2: not UTF-8 text (byte 16 of the line). Convert the file to UTF-8, for example with "
        "iconv -f GB18030 -t UTF-8");
}

TEST_CASE("io.jsonl.a_line_without_text_a_is_an_error_that_lists_its_fields") {
  CHECK(complaint(good + "\n{\"sentence2\": \"b\", \"label\": \"0\"}") ==
        "F:2: no field \"sentence1\" (fields: \"label\", \"sentence2\"). Name the right one with "
        "--texta_name");
  CHECK(complaint("{}") ==
        "F:1: no field \"sentence1\" (fields: none). Name the right one with --texta_name");
}

TEST_CASE("io.jsonl.a_file_without_any_text_b_is_an_error") {
  const std::string line = R"({"sentence1": "a", "other": "b", "label": "0"})";
  CHECK(
      complaint(line + "\n" + line) ==
      "F: no field \"sentence2\" (fields: \"label\", \"other\", \"sentence1\"). Name the right one "
      "with --textb_name (an empty name: single texts)");
  CHECK(complaint(line + "\n" + good) == "no error");
}

TEST_CASE("io.jsonl.a_line_without_a_required_label_is_an_error") {
  CHECK(complaint(R"({"sentence1": "a", "sentence2": "b"})") ==
        "F:1: no field \"label\" (fields: \"sentence1\", \"sentence2\"). Name the right one with "
        "--label_name");
}

TEST_CASE("io.jsonl.fields_of_the_wrong_type_are_errors") {
  CHECK(complaint(R"({"sentence1": 5, "sentence2": "b", "label": "0"})") ==
        "F:1: \"sentence1\" is a JSON number, not a string. Put the text in quotes");
  CHECK(complaint(R"({"sentence1": "a", "sentence2": null, "label": "0"})") ==
        "F:1: \"sentence2\" is a JSON null, not a string. Put the text in quotes");
  for (const std::string label : {"1.5", "null", "true", "[1]", "18446744073709551615"})
    CHECK(complaint(R"({"sentence1": "a", "sentence2": "b", "label": )" + label + "}") ==
          "F:1: \"label\" is " + label + ", not a label. Labels are strings or integers");
  for (const std::string id : {"\"x\"", "\"7a\"", "null", "18446744073709551615", "\"\""})
    CHECK(complaint(R"({"sentence1": "a", "sentence2": "b", "label": "0", "id": )" + id + "}") ==
          "F:1: \"id\" is " + id + ", not an integer. Give every line an integer id, or none");
}

TEST_CASE("io.jsonl.labels_are_numbered_as_training_shows_them") {
  const LabelMap map(file_of({"b", "a", "b", std::int64_t{1}, "1"}), 4);
  CHECK(map.size() == 4);
  CHECK(map.find("b") == 0);
  CHECK(map.find("a") == 1);
  CHECK(map.find(std::int64_t{1}) == 2);
  CHECK(map.find("1") == 3);
  CHECK(map.raw(2) == RawLabel(std::int64_t{1}));
  CHECK(map.index(labelled("a"), "dev.json") == 1);
  CHECK(map.index(Example{}, "test.json") == -1);
  CHECK(LabelMap(map.labels(), "checkpoint").find("1") == 3);
}

TEST_CASE("io.jsonl.an_unknown_label_is_an_error_with_the_known_ones") {
  const LabelMap map(file_of({"0", "1"}), 2);
  CHECK(
      error_of([&] { map.index(labelled("2", 17), "dev.json"); }) ==
      "dev.json:17: label \"2\" does not occur in train.json, which has \"0\", \"1\". Correct the "
      "label, or remove the line");
  CHECK_THAT(error_of([&] { map.index(labelled(std::int64_t{0}, 3), "dev.json"); }),
             Catch::StartsWith("dev.json:3: label 0 does not occur in train.json"));
}

TEST_CASE("io.jsonl.the_number_of_labels_must_be_the_models") {
  CHECK(error_of([] {
          LabelMap(file_of({"0", "1", "-"}), 2);
        }) ==
        "train.json: has the labels \"0\", \"1\", \"-\" (3), but the model has 2 classes. Set "
        "num_labels to 3, or remove the lines of the labels that are none");
  CHECK(error_of([] {
          LabelMap(file_of({"0", "0"}), 2);
        }) ==
        "train.json: has the labels \"0\" (1), but the model has 2 classes. Set num_labels to "
        "1, or train with examples of every class");
  std::vector<RawLabel> many;
  for (int i = 0; i < 20; ++i) many.emplace_back(std::int64_t{i});
  CHECK_THAT(error_of([&] { LabelMap(file_of(many), 2); }),
             Catch::Contains("has the labels 0, 1, 2, 3, 4, 5, 6, 7, … (20)"));
}

TEST_CASE("io.jsonl.predictions_are_lines_with_raw_labels") {
  const TemporaryFolder folder;
  const std::string path = folder.file("predict.json", "old");
  const std::vector<Prediction> rows = {
      {0, "0"}, {-5, std::int64_t{1}}, {2, "同\"\\\n\t\x01"}, {3, "é"}};
  write_predictions(path, rows);
  CHECK(content_of(path) ==
        "{\"id\": 0, \"label\": \"0\"}\n{\"id\": -5, \"label\": 1}\n"
        "{\"id\": 2, \"label\": \"同\\\"\\\\\\n\\t\\u0001\"}\n{\"id\": 3, \"label\": \"é\"}\n");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);  // no leftovers
  write_predictions(path, {});
  CHECK(content_of(path).empty());
}

TEST_CASE("io.jsonl.predictions_that_cannot_be_written_are_an_error") {
  const std::vector<Prediction> rows = {{0, "0"}};
  const std::string missing =
      error_of([&] { write_predictions("/no/such/folder/predict.json", rows); });
  CHECK_THAT(missing, Catch::StartsWith("/no/such/folder/predict.json: ") &&
                          Catch::Contains("No such file or directory"));
  const TemporaryFolder folder;
  CHECK_THROWS_AS(write_predictions(folder.path, rows), Error);  // the name of a directory
  if (::geteuid() == 0) {
    WARN("root may write anywhere: the unwritable directory is not tried");
    return;
  }
  std::filesystem::permissions(
      folder.path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  CHECK_THAT(error_of([&] { write_predictions(folder.path + "/predict.json", rows); }),
             Catch::Contains("Permission denied"));
  std::filesystem::permissions(folder.path, std::filesystem::perms::owner_all);
}

TEST_CASE("io.jsonl.predictions_that_find_no_room_are_an_error_and_leave_the_old_file") {
  const TemporaryFolder folder;
  const std::string path = folder.file("predict.json", "old");
  // A file size limit stands for the full disk: the write ends short in the same place.
  struct rlimit before {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small { 64, before.rlim_max };
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of([&] {
    write_predictions(path, std::vector<Prediction>(100, {0, "0"}));
  });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK_THAT(error, Catch::StartsWith(path + ": ") && Catch::Contains("File too large"));
  CHECK(content_of(path) == "old");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
}
