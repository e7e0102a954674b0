/// \file  A model's config.json: reads, compares and writes it.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/atomic_file.hpp>
#include <ctrain/io/json_text.hpp>
#include <ctrain/io/mapped_file.hpp>

#include <boost/hana/for_each.hpp>
#include <boost/hana/tuple.hpp>

#include <climits>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <nlohmann/json.hpp>

namespace ctrain {

/// config.json of a Hugging Face BERT, key by key. The defaults are those of MegatronBertConfig;
/// bert_config() has those of BertConfig.
struct HfConfig {
  std::string model_type = "megatron-bert";  // or "bert"
  std::int64_t vocab_size = 29056;
  std::int64_t hidden_size = 1024;
  std::int64_t num_hidden_layers = 24;
  std::int64_t num_attention_heads = 16;
  std::int64_t intermediate_size = 4096;
  std::string hidden_act = "gelu";
  double hidden_dropout_prob = 0.1;
  double attention_probs_dropout_prob = 0.1;
  std::int64_t max_position_embeddings = 512;
  std::int64_t type_vocab_size = 2;
  double initializer_range = 0.02;
  double layer_norm_eps = 1e-12;
  std::int64_t pad_token_id = 0;
  std::vector<std::string> labels = {"LABEL_0", "LABEL_1"};  // id2label, in the order of the ids
};

inline HfConfig bert_config() {
  HfConfig config;
  config.model_type = "bert";
  config.vocab_size = 30522;
  config.hidden_size = 768;
  config.num_hidden_layers = 12;
  config.num_attention_heads = 12;
  config.intermediate_size = 3072;
  return config;
}

/// The names that transformers gives to labels nobody named.
inline std::vector<std::string> numbered_labels(std::int64_t count) {
  std::vector<std::string> labels;
  for (std::int64_t i = 0; i < count; ++i) labels.push_back("LABEL_" + std::to_string(i));
  return labels;
}

/// A key that holds one value, the member it goes to, and the values it may have.
template <class Value> struct ConfigKey {
  std::string_view name;
  Value HfConfig::*member;
  double least = 0, most = INT_MAX;  // of a number
};

/// The one list of keys: reading, comparing and writing walk it.
inline constexpr auto config_keys = boost::hana::make_tuple(
    ConfigKey<std::string>{"model_type", &HfConfig::model_type},
    ConfigKey<std::int64_t>{"vocab_size", &HfConfig::vocab_size, 1},
    ConfigKey<std::int64_t>{"hidden_size", &HfConfig::hidden_size, 1},
    ConfigKey<std::int64_t>{"num_hidden_layers", &HfConfig::num_hidden_layers, 1},
    ConfigKey<std::int64_t>{"num_attention_heads", &HfConfig::num_attention_heads, 1},
    ConfigKey<std::int64_t>{"intermediate_size", &HfConfig::intermediate_size, 1},
    ConfigKey<std::string>{"hidden_act", &HfConfig::hidden_act},
    ConfigKey<double>{"hidden_dropout_prob", &HfConfig::hidden_dropout_prob, 0, 1},
    ConfigKey<double>{"attention_probs_dropout_prob", &HfConfig::attention_probs_dropout_prob, 0,
                      1},
    ConfigKey<std::int64_t>{"max_position_embeddings", &HfConfig::max_position_embeddings, 1},
    ConfigKey<std::int64_t>{"type_vocab_size", &HfConfig::type_vocab_size, 1},
    ConfigKey<double>{"initializer_range", &HfConfig::initializer_range, 0, 1},
    ConfigKey<double>{"layer_norm_eps", &HfConfig::layer_norm_eps, 0, 1},
    ConfigKey<std::int64_t>{"pad_token_id", &HfConfig::pad_token_id, 0});

/// Reads config.json. Keys that are absent have the default of the model's class; keys that ctrain
/// does not know are passed over, as transformers does, except those that would change the forward
/// pass. Throws Error naming the file and the key.
class ConfigReader {
 public:
  explicit ConfigReader(std::filesystem::path path) : path_(std::move(path)) {
    const MappedFile file(path_);
    try {
      json_ = nlohmann::json::parse(file.text());
    } catch (const nlohmann::json::exception& e) {
      fail("is not JSON (" + json_complaint(e.what()) + ")", "Mend or download the file again");
    }
    if (!json_.is_object()) fail("is not a JSON object", "Mend or download the file again");
  }

  HfConfig read() const {
    HfConfig config = defaults();
    boost::hana::for_each(config_keys, [&](const auto& key) {
      if (json_.contains(key.name)) read_value(key, config.*key.member);
    });
    check_forward_pass(config);
    config.labels = labels();
    return config;
  }

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& fix) const {
    throw Error(path_.string(), what, fix);
  }
  [[noreturn]] void fail_key(std::string_view key, const std::string& expected) const {
    constexpr std::size_t longest = 60;
    std::string found = json_.at(key).dump(-1, ' ', true);
    if (found.size() > longest) found = found.substr(0, longest) + "...";
    fail("\"" + std::string(key) + "\" is " + found, "It must be " + expected);
  }

  /// model_type decides which class's defaults hold.
  HfConfig defaults() const {
    if (!json_.contains("model_type"))
      fail("has no \"model_type\"", "Add \"model_type\": \"megatron-bert\", or \"bert\"");
    if (json_["model_type"] == "megatron-bert") return {};
    if (json_["model_type"] == "bert") return bert_config();
    fail_key("model_type", "\"megatron-bert\" or \"bert\": other models are not supported");
  }

  void read_value(const ConfigKey<std::string>& key, std::string& out) const {
    if (!json_[key.name].is_string()) fail_key(key.name, "a string");
    out = json_[key.name];
  }
  void read_value(const ConfigKey<std::int64_t>& key, std::int64_t& out) const {
    const nlohmann::json& value = json_[key.name];
    if (value.is_null() && key.name == "pad_token_id") return;
    // As double first: a number above 2^63 must not wrap.
    if (!value.is_number_integer() || value.get<double>() < key.least ||
        value.get<double>() > key.most)
      fail_key(key.name, "an integer from " + std::to_string(std::int64_t(key.least)) + " to " +
                             std::to_string(std::int64_t(key.most)));
    out = value;
  }
  void read_value(const ConfigKey<double>& key, double& out) const {
    const nlohmann::json& value = json_[key.name];
    if (!value.is_number() || !(value.get<double>() >= key.least) ||
        !(value.get<double>() <= key.most))
      fail_key(key.name, "a number from 0 to 1");
    out = value;
  }

  /// Keys of other variants of the model: accepted only with the value that ctrain computes.
  void check_forward_pass(const HfConfig& config) const {
    require("position_embedding_type", "absolute");
    require("is_decoder", false);
    require("add_cross_attention", false);
    if (json_.contains("classifier_dropout") && !json_["classifier_dropout"].is_null())
      require("classifier_dropout", config.hidden_dropout_prob);
  }
  void require(const char* key, const nlohmann::json& value) const {
    if (json_.contains(key) && json_[key] != value)
      fail_key(key, value.dump() + ": other models are not supported");
  }

  std::vector<std::string> labels() const {
    const bool counted = json_.contains("num_labels"), named = json_.contains("id2label");
    if (counted && (!json_["num_labels"].is_number_unsigned() || json_["num_labels"] < 1 ||
                    json_["num_labels"] > most_labels))
      fail_key("num_labels", "an integer from 1 to " + std::to_string(most_labels));
    if (!named) return counted ? numbered_labels(json_["num_labels"]) : HfConfig{}.labels;
    const std::vector<std::string> names = named_labels();
    if (counted && json_["num_labels"] != names.size())
      fail_key("num_labels",
               "the number of entries of \"id2label\", " + std::to_string(names.size()));
    return names;
  }
  std::vector<std::string> named_labels() const {
    const nlohmann::json& names = json_["id2label"];
    const std::string expected = "an object from \"0\", \"1\", ... to the names of the labels";
    if (!names.is_object() || names.empty() || names.size() > most_labels)
      fail_key("id2label", expected);
    std::vector<std::string> out;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto found = names.find(std::to_string(i));
      if (found == names.end() || !found->is_string()) fail_key("id2label", expected);
      out.push_back(*found);
    }
    return out;
  }

  static constexpr std::size_t most_labels = 100'000;

  std::filesystem::path path_;
  nlohmann::json json_;
};

inline HfConfig read_config(const std::filesystem::path& path) {
  return ConfigReader(path).read();
}

/// "hidden_size: file has 1024, policy has 2048", one row per key that differs. Labels are not
/// compared: a pretrained file has none, and the classifier's shape says how many there are.
inline std::vector<std::string> config_differences(const HfConfig& file, const HfConfig& policy) {
  std::vector<std::string> rows;
  boost::hana::for_each(config_keys, [&](const auto& key) {
    const nlohmann::json in_file = file.*key.member, in_policy = policy.*key.member;
    if (in_file != in_policy)
      rows.push_back(std::string(key.name) + ": file has " + in_file.dump() + ", policy has " +
                     in_policy.dump());
  });
  return rows;
}

/// Throws one Error that lists every difference.
inline void require_same_config(const std::filesystem::path& path, const HfConfig& file,
                                const HfConfig& policy) {
  std::string what;
  for (const std::string& row : config_differences(file, policy))
    what += (what.empty() ? "" : "; ") + row;
  if (!what.empty())
    throw Error(path.string(), what, "Set the policy to what the file has, or use another model");
}

/// Writes a config.json from which AutoModelForSequenceClassification builds the classifier.
inline void write_config(const std::filesystem::path& path, const HfConfig& config) {
  nlohmann::json json = nlohmann::json::object();
  boost::hana::for_each(config_keys,
                        [&](const auto& key) { json[std::string(key.name)] = config.*key.member; });
  json["architectures"] = {config.model_type == "bert" ? "BertForSequenceClassification"
                                                       : "MegatronBertForSequenceClassification"};
  json["position_embedding_type"] = "absolute";
  json["torch_dtype"] = "float32";
  for (std::size_t i = 0; i < config.labels.size(); ++i) {
    json["id2label"][std::to_string(i)] = config.labels[i];
    json["label2id"][config.labels[i]] = i;
  }
  try {
    write_file(path, json.dump(2) + "\n");
  } catch (const nlohmann::json::exception& e) {
    throw Error(path.string(), "a label is not UTF-8: " + json_complaint(e.what()),
                "Name labels in UTF-8");
  }
}

}  // namespace ctrain
