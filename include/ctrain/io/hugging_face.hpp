/// \file  A Hugging Face model directory: config.json, vocab.txt and weights, in and out.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/atomic_file.hpp>
#include <ctrain/io/config_json.hpp>
#include <ctrain/io/json_text.hpp>
#include <ctrain/io/mapped_file.hpp>
#include <ctrain/io/safetensors.hpp>
#include <ctrain/io/tensor_source.hpp>
#include <ctrain/io/torch_bin.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace ctrain {

/// One file of weights, of the format that its name says.
inline std::unique_ptr<TensorSource> open_tensor_file(const std::filesystem::path& path) {
  if (path.extension() == ".safetensors") return std::make_unique<SafeTensors>(path);
  if (path.extension() == ".bin" || path.extension() == ".ckpt" || path.extension() == ".pt")
    return std::make_unique<TorchBin>(path);
  throw Error(path.string(), "has a name of no known format",
              "Use a .safetensors file, or a .bin, .pt or .ckpt file of torch.save");
}

/// Weights in several files, listed in an index: {"weight_map": {name: file}}. All files are opened
/// when the index is, so that a missing one is found at once.
class ShardedTensors final : public TensorSource {
 public:
  explicit ShardedTensors(std::filesystem::path index) : index_(std::move(index)) {
    const MappedFile file(index_);
    nlohmann::json json;
    try {
      json = nlohmann::json::parse(file.text());
    } catch (const nlohmann::json::exception& e) {
      fail("is not JSON (" + json_complaint(e.what()) + ")");
    }
    if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
      fail("has no \"weight_map\" from tensors to files");
    for (const auto& [name, value] : json["weight_map"].items()) {
      if (!value.is_string()) fail("the file of tensor " + in_quotes(name) + " is not a string");
      add(name, value.get<std::string>());
    }
  }

  const std::filesystem::path& path() const override { return index_; }
  const std::vector<std::string>& names() const override { return names_; }
  const TensorInfo* find(std::string_view name) const override {
    const auto found = home_.find(name);
    return found == home_.end() ? nullptr : found->second->find(name);
  }
  void read_some(std::string_view name, std::int64_t first, float* destination,
                 std::size_t count) const override {
    home_.find(name)->second->read_some(name, first, destination, count);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(index_.string(), what, "Download or save the directory again");
  }

  void add(const std::string& name, const std::string& shard) {
    if (std::filesystem::path(shard).filename() != shard)
      fail("names the file " + in_quotes(shard) + ", which is not in its own directory");
    std::unique_ptr<TensorSource>& source = shards_[shard];
    if (!source) source = open_tensor_file(folder_of(index_) / shard);
    if (source->find(name) == nullptr)
      fail("says that tensor " + in_quotes(name) + " is in " + shard + ", but it is not");
    home_.emplace(name, source.get());
    names_.push_back(name);
  }

  std::filesystem::path index_;
  std::map<std::string, std::unique_ptr<TensorSource>> shards_;
  std::map<std::string, const TensorSource*, std::less<>> home_;
  std::vector<std::string> names_;
};

/// The weights of a model directory: safetensors before torch's format, one file before shards.
inline std::unique_ptr<TensorSource> open_weights(const std::filesystem::path& directory) {
  constexpr const char* candidates[] = {"model.safetensors", "model.safetensors.index.json",
                                        "pytorch_model.bin", "pytorch_model.bin.index.json"};
  for (const char* name : candidates) {
    const std::filesystem::path path = directory / name;
    if (!std::filesystem::exists(path)) continue;
    if (path.extension() == ".json") return std::make_unique<ShardedTensors>(path);
    return open_tensor_file(path);
  }
  throw Error(directory.string(),
              "holds no weights: neither model.safetensors nor pytorch_model.bin, nor an index of "
              "either",
              "Download a Hugging Face model into this directory, or check the path");
}

/// A tensor that the model needs.
struct WantedTensor {
  std::string name;  // as Hugging Face names it, with "bert." and without "model."
  std::vector<std::int64_t> shape;
  bool optional = false;  // may be absent, as the classifier of a pretrained model is
};

/// What a load left to the caller, and what it passed over.
struct LoadReport {
  std::vector<std::string> fresh;   // optional tensors that are absent: to be initialised
  std::vector<std::string> unused;  // tensors of the file that the model does not have
  std::size_t loaded = 0;
};

/// How the names in a file differ from the model's. One file uses one way throughout.
enum class Naming : std::uint8_t {
  as_is,
  without_bert,  // saved from the bare encoder
  with_model     // saved from a Lightning module
};

inline std::string name_in_file(std::string_view name, Naming naming) {
  constexpr std::string_view bert = "bert.";
  if (naming == Naming::without_bert && name.starts_with(bert)) name.remove_prefix(bert.size());
  return (naming == Naming::with_model ? "model." : "") + std::string(name);
}

/// The way of naming under which most of the wanted tensors are found.
inline Naming naming_of(const TensorSource& source, std::span<const WantedTensor> wanted) {
  Naming best = Naming::as_is;
  std::size_t most = 0;
  for (const Naming naming : {Naming::as_is, Naming::without_bert, Naming::with_model}) {
    std::size_t found = 0;
    for (const WantedTensor& tensor : wanted)
      found += source.find(name_in_file(tensor.name, naming)) != nullptr;
    if (found > most) {
      most = found;
      best = naming;
    }
  }
  return best;
}

/// Throws one Error that names the first ten of `rows` and counts them.
inline void require_no_complaints(const std::filesystem::path& path,
                                  const std::vector<std::string>& rows) {
  constexpr std::size_t most = 10;
  if (rows.empty()) return;
  std::string what = std::to_string(rows.size()) + " tensors do not fit the model: ";
  for (std::size_t i = 0; i < rows.size() && i < most; ++i) what += (i > 0 ? "; " : "") + rows[i];
  if (rows.size() > most) what += "; and " + std::to_string(rows.size() - most) + " more";
  throw Error(path.string(), what, "Use the weights of the model that the policy describes");
}

/// The tensors of a source that a model wants, all of them known to fit before any is read, in
/// whatever stretches.
class MatchedTensors {
 public:
  MatchedTensors(const TensorSource& source, std::span<const WantedTensor> wanted)
      : source_(source), naming_(naming_of(source, wanted)) {
    std::vector<std::string> complaints;
    std::set<std::string> used;
    for (const WantedTensor& tensor : wanted) {
      const std::string name = name_in_file(tensor.name, naming_);
      const TensorInfo* info = source.find(name);
      if (info != nullptr) used.insert(name);
      if (info == nullptr && tensor.optional)
        report_.fresh.push_back(tensor.name);
      else if (info == nullptr)
        complaints.push_back(tensor.name + " is missing");
      else if (!widens_to_float(info->type))
        complaints.push_back(tensor.name + " is stored as " + std::string(name_of(info->type)));
      else if (info->shape != tensor.shape)
        complaints.push_back(tensor.name + " has shape " + shape_text(info->shape) +
                             " instead of " + shape_text(tensor.shape));
    }
    require_no_complaints(source.path(), complaints);
    report_.loaded = used.size();
    for (const std::string& name : source.names())
      if (!used.contains(name)) report_.unused.push_back(name);
  }

  const LoadReport& report() const { return report_; }

  /// Elements [first, first + count) of a wanted tensor, widened to float; leaves them alone where
  /// the source does not have it.
  void read(const std::string& tensor, std::int64_t first, float* to, std::int64_t count) const {
    const std::string name = name_in_file(tensor, naming_);
    if (source_.find(name) != nullptr) source_.read_some(name, first, to, std::size_t(count));
  }

 private:
  const TensorSource& source_;
  Naming naming_;
  LoadReport report_;
};

/// One line: "loaded 391 tensors; fresh: classifier.bias, classifier.weight; unused: cls.* (7),
/// position_ids (1)".
inline std::string describe(const LoadReport& report) {
  const auto join = [](std::string& out, const std::string& item) {
    out += (out.empty() ? "" : ", ") + item;
  };
  std::string fresh, unused;
  for (const std::string& name : report.fresh) join(fresh, name);

  constexpr std::size_t most = 5;
  std::size_t head = 0, position_ids = 0, other = 0;
  for (const std::string& name : report.unused) {
    if (name.starts_with("cls.") || name.starts_with("model.cls."))
      ++head;
    else if (name.ends_with("position_ids"))
      ++position_ids;
    else if (++other <= most)
      join(unused, in_quotes(name));
  }
  if (other > most) join(unused, std::to_string(other - most) + " more");
  if (head > 0) join(unused, "cls.* (" + std::to_string(head) + ")");
  if (position_ids > 0) join(unused, "position_ids (" + std::to_string(position_ids) + ")");
  return "loaded " + std::to_string(report.loaded) + " tensors" +
         (fresh.empty() ? "" : "; fresh: " + fresh) + (unused.empty() ? "" : "; unused: " + unused);
}

/// Writes config.json and vocab.txt of a model directory, each whole. Weights come last, as
/// model.safetensors, so a directory that has those is complete; transformers'
/// AutoModelForSequenceClassification and AutoTokenizer, and load_weights(), can load it.
inline void save_config_and_vocabulary(const std::filesystem::path& directory,
                                       const HfConfig& config,
                                       const std::filesystem::path& vocabulary) {
  std::error_code code;
  std::filesystem::create_directories(directory, code);
  if (code) throw write_error(directory, "create the directory", code.value(), 0);
  const std::filesystem::path copy = directory / "vocab.txt";
  if (!std::filesystem::equivalent(vocabulary, copy, code))
    write_file(copy, MappedFile(vocabulary).text());
  write_config(directory / "config.json", config);
}

}  // namespace ctrain
