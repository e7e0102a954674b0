/// \file  JSON lines: text pairs and labels in, predictions out.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/atomic_file.hpp>
#include <ctrain/io/mapped_file.hpp>
#include <ctrain/io/unicode.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// Names of the fields of a line, as --texta_name, --textb_name, --label_name and --id_name set
/// them. The defaults are AFQMC's. An empty `text_b` means single texts.
struct FieldNames {
  std::string text_a = "sentence1";
  std::string text_b = "sentence2";
  std::string label = "label";
  std::string id = "id";
};

/// A label as the file has it: AFQMC's are strings, other sets number their classes.
using RawLabel = std::variant<std::int64_t, std::string>;

/// One line of a file.
struct Example {
  std::string text_a, text_b;
  std::optional<RawLabel> label;
  std::int64_t id = 0;    // the line's id; without one, the index of the line
  std::int64_t line = 0;  // from 1
};

/// All lines of a file.
struct ExampleFile {
  std::string path;
  std::vector<Example> examples;
};

/// Whether each line must have a label. Test files have none.
enum class Labels : std::uint8_t { required, optional };

struct Prediction {
  std::int64_t id = 0;
  RawLabel label;
};

// functions --------------------------------------------------------------------------------------

/// "PATH:LINE", the place of a fault in a text file.
inline std::string place_of(const std::string& path, std::int64_t line) {
  return path + ":" + std::to_string(line);
}

/// A label as JSON writes it: 1 or "1".
inline std::string to_json(const RawLabel& label) {
  return std::visit([](const auto& value) { return nlohmann::json(value).dump(); }, label);
}

/// Parses one line into an object. Throws Error if it is anything else.
inline nlohmann::json parse_json_line(std::string_view line, const std::string& place) {
  if (const std::size_t bad = find_not_utf8(line); bad != std::string_view::npos)
    throw Error(place, "not UTF-8 text (byte " + std::to_string(bad + 1) + " of the line)",
                "Convert the file to UTF-8, for example with iconv -f GB18030 -t UTF-8");
  const std::string fix = "Write one JSON object a line: mend or remove this one";
  if (line.find_first_not_of(" \t\r") == std::string_view::npos)
    throw Error(place, "an empty line", fix);
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& error) {
    const std::string_view reason =
        error.what();  // "[json.exception.parse_error.101] parse error at …"
    const std::size_t start = reason.find("] ");
    throw Error(
        place,
        "not JSON (" + std::string(reason.substr(start == reason.npos ? 0 : start + 2)) + ")", fix);
  }
  if (!object.is_object())
    throw Error(place, std::string("a JSON ") + object.type_name() + ", not an object", fix);
  return object;
}

/// `"a", "b"`: the keys of an object.
inline std::string keys_of(const nlohmann::json& object) {
  std::string keys;
  for (const auto& item : object.items())
    keys += (keys.empty() ? "" : ", ") + nlohmann::json(item.key()).dump();
  return keys.empty() ? "none" : keys;
}

/// A text field; nothing if the line has no such field.
inline std::optional<std::string> text_field(const nlohmann::json& object, const std::string& name,
                                             const std::string& place) {
  const auto field = object.find(name);
  if (field == object.end()) return std::nullopt;
  if (!field->is_string())
    throw Error(place, "\"" + name + "\" is a JSON " + field->type_name() + ", not a string",
                "Put the text in quotes");
  return field->get<std::string>();
}

/// A label field, an integer or a string; nothing if the line has no such field.
inline std::optional<RawLabel> label_field(const nlohmann::json& object, const std::string& name,
                                           const std::string& place) {
  const auto field = object.find(name);
  if (field == object.end()) return std::nullopt;
  if (field->is_string()) return RawLabel(field->get<std::string>());
  if (field->is_number_integer() &&
      (!field->is_number_unsigned() || field->get<std::uint64_t>() <= std::uint64_t(INT64_MAX)))
    return RawLabel(field->get<std::int64_t>());
  throw Error(place, "\"" + name + "\" is " + field->dump() + ", not a label",
              "Labels are strings or integers");
}

/// An id field as an integer, as Python's int() takes it: 3, "3", 3.0; `index` if there is none.
inline std::int64_t id_field(const nlohmann::json& object, const std::string& name,
                             std::int64_t index, const std::string& place) {
  const auto field = object.find(name);
  if (field == object.end()) return index;
  if (field->is_string()) {
    const auto& text = field->get_ref<const std::string&>();
    std::int64_t id = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (code == std::errc() && end == text.data() + text.size()) return id;
  } else if (field->is_number() && std::abs(field->get<double>()) < 0x1p63) {
    return field->get<std::int64_t>();
  }
  throw Error(place, "\"" + name + "\" is " + field->dump() + ", not an integer",
              "Give every line an integer id, or none");
}

/// Reads a file of JSON lines, UTF-8 with or without byte order mark. A line without text b has an
/// empty one (a single text); a file without any, or a line without text a or without a required
/// label, is taken for a wrong field name. Throws Error with the line.
inline ExampleFile read_examples(const std::string& path, const FieldNames& names, Labels labels) {
  const MappedFile file(path);
  std::string_view rest = file.text();
  if (rest.starts_with("\xEF\xBB\xBF")) rest.remove_prefix(3);
  ExampleFile out{path, {}};
  bool any_text_b = names.text_b.empty();
  std::string first_keys;
  const auto missing = [&](const std::string& place, const std::string& name, const char* flag,
                           const std::string& keys) {
    return Error(place, "no field \"" + name + "\" (fields: " + keys + ")",
                 std::string("Name the right one with ") + flag);
  };
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const auto index = std::int64_t(out.examples.size());
    const std::string place = place_of(path, index + 1);
    const nlohmann::json object = parse_json_line(rest.substr(0, end), place);
    rest.remove_prefix(std::min(end + 1, rest.size()));

    const auto text_a = text_field(object, names.text_a, place);
    if (!text_a) throw missing(place, names.text_a, "--texta_name", keys_of(object));
    std::optional<std::string> text_b;
    if (!names.text_b.empty()) text_b = text_field(object, names.text_b, place);
    any_text_b |= text_b.has_value();
    if (index == 0) first_keys = keys_of(object);
    auto label = label_field(object, names.label, place);
    if (!label && labels == Labels::required)
      throw missing(place, names.label, "--label_name", keys_of(object));
    out.examples.push_back({*text_a, text_b.value_or(""), std::move(label),
                            id_field(object, names.id, index, place), index + 1});
  }
  if (out.examples.empty()) throw Error(path, "an empty file", "Put one JSON object on each line");
  if (!any_text_b)
    throw missing(path, names.text_b, "--textb_name (an empty name: single texts)", first_keys);
  return out;
}

/// Writes one line `{"id": 0, "label": "0"}` for each prediction, labels as the training file has
/// them, non-ASCII as it is. The file appears whole or not at all; throws Error.
inline void write_predictions(const std::string& path, std::span<const Prediction> predictions) {
  std::string text;
  for (const Prediction& prediction : predictions)
    text += "{\"id\": " + std::to_string(prediction.id) +
            ", \"label\": " + to_json(prediction.label) + "}\n";
  write_file(path, text);
}

// labels -----------------------------------------------------------------------------------------

/// Class indices of raw labels, numbered in the order in which the training file shows them.
class LabelMap {
 public:
  /// Throws Error unless the file has exactly `classes` different labels.
  LabelMap(const ExampleFile& train, int classes) : source_(train.path) {
    for (const Example& example : train.examples)
      if (example.label && !find(*example.label)) labels_.push_back(*example.label);
    if (size() == classes) return;
    throw Error(source_,
                "has the labels " + list() + " (" + std::to_string(size()) +
                    "), but the model has " + std::to_string(classes) + " classes",
                size() > classes ? "Set num_labels to " + std::to_string(size()) +
                                       ", or remove the lines of the labels that are none"
                                 : "Set num_labels to " + std::to_string(size()) +
                                       ", or train with examples of every class");
  }

  /// The labels that a checkpoint remembers, in the order of their classes. `source` names it.
  LabelMap(std::vector<RawLabel> labels, std::string source)
      : source_(std::move(source)), labels_(std::move(labels)) {}

  const std::vector<RawLabel>& labels() const { return labels_; }
  int size() const { return int(labels_.size()); }
  const RawLabel& raw(int index) const { return labels_.at(std::size_t(index)); }

  std::optional<int> find(const RawLabel& label) const {
    const auto found = std::find(labels_.begin(), labels_.end(), label);
    if (found == labels_.end()) return std::nullopt;
    return int(found - labels_.begin());
  }

  /// The class of an example; -1 if it has no label. Throws Error at the line of an unknown label.
  int index(const Example& example, const std::string& path) const {
    if (!example.label) return -1;
    if (const auto found = find(*example.label)) return *found;
    throw Error(place_of(path, example.line),
                "label " + to_json(*example.label) + " does not occur in " + source_ +
                    ", which has " + list(),
                "Correct the label, or remove the line");
  }

 private:
  std::string list() const {
    constexpr std::size_t most = 8;
    std::string text;
    for (std::size_t i = 0; i < std::min(labels_.size(), most); ++i)
      text += (i ? ", " : "") + to_json(labels_[i]);
    return labels_.size() > most ? text + ", …" : text;
  }

  std::string source_;
  std::vector<RawLabel> labels_;
};

}  // namespace ctrain
