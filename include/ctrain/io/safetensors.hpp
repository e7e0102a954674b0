/// \file  Reads and writes model.safetensors, believing nothing the file says.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/atomic_file.hpp>
#include <ctrain/io/json_text.hpp>
#include <ctrain/io/open_file.hpp>
#include <ctrain/io/tensor_source.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace ctrain {

// The format (huggingface/safetensors): a little-endian 64-bit N; N bytes of JSON, right-padded
// with spaces: name -> {dtype, shape, data_offsets [begin, end)}, and "__metadata__", text -> text;
// then the tensors' bytes, row-major, without a gap.

inline constexpr std::uint64_t safetensors_longest_header = 100'000'000;

/// One tensor's row in the header.
struct SafeTensorsEntry {
  TensorInfo info;
  std::uint64_t begin = 0, end = 0;  // bytes, from the end of the header
};

/// The header of a safetensors file. A SAX handler, because a document object would silently keep
/// only the last of two equal keys.
class SafeTensorsHeader {
 public:
  std::map<std::string, SafeTensorsEntry, std::less<>> entries;
  std::map<std::string, std::string> metadata;

  SafeTensorsHeader(const std::filesystem::path& path, std::string_view json) : path_(path) {
    if (!json.starts_with('{')) fail("the header does not begin with '{'");
    nlohmann::json::sax_parse(json.begin(), json.end(), this);
  }

  // What nlohmann's parser calls.
  bool start_object(std::size_t) {
    if (inside_ == Inside::nothing)
      inside_ = Inside::header;
    else if (inside_ == Inside::header && name_ == "__metadata__")
      inside_ = Inside::metadata;
    else if (inside_ == Inside::header)
      begin_tensor();
    else
      unexpected("an object");
    return true;
  }
  bool key(std::string& text) {
    switch (inside_) {
      case Inside::header:
        name_ = text;
        if (entries.contains(name_) || (name_ == "__metadata__" && metadata_seen_))
          fail("the name " + in_quotes(name_) + " occurs twice");
        break;
      case Inside::metadata:
        field_ = text;
        if (metadata.contains(field_))
          fail("the metadata key " + in_quotes(text) + " occurs twice");
        break;
      default:
        begin_field(text);
    }
    return true;
  }
  bool string(std::string& text) {
    if (inside_ == Inside::metadata) {
      metadata[field_] = text;
    } else if (inside_ == Inside::tensor && field_ == "dtype") {
      const std::optional<StoredType> type = stored_type_named(text);
      if (!type)
        fail_tensor("has dtype " + in_quotes(text) +
                    ", which is not one of BOOL U8 F16 BF16 "
                    "I32 F32 F64 I64");
      entry_.info.type = *type;
    } else {
      unexpected("a string");
    }
    return true;
  }
  bool start_array(std::size_t) {
    if (inside_ == Inside::tensor && field_ == "shape")
      inside_ = Inside::shape;
    else if (inside_ == Inside::tensor && field_ == "data_offsets")
      inside_ = Inside::offsets;
    else
      unexpected("an array");
    return true;
  }
  bool number_unsigned(std::uint64_t value) {
    if (value > std::uint64_t(INT64_MAX)) fail_tensor("has a number that is too large");
    if (inside_ == Inside::shape)
      entry_.info.shape.push_back(std::int64_t(value));
    else if (inside_ == Inside::offsets)
      offsets_.push_back(value);
    else
      unexpected("a number");
    return true;
  }
  bool end_array() {
    if (inside_ == Inside::offsets && offsets_.size() != 2)
      fail_tensor("has " + std::to_string(offsets_.size()) + " data_offsets instead of 2");
    inside_ = Inside::tensor;
    return true;
  }
  bool end_object() {
    if (inside_ == Inside::tensor) end_tensor();
    if (inside_ == Inside::metadata) metadata_seen_ = true;
    inside_ = inside_ == Inside::header ? Inside::nothing : Inside::header;
    return true;
  }
  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("a boolean"); }
  bool number_integer(std::int64_t) { return unexpected("a negative number"); }
  bool number_float(double, const std::string&) {
    return unexpected("a fraction or a huge number");
  }
  bool binary(nlohmann::json::binary_t&) { return unexpected("binary data"); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& e) {
    fail("the header is not JSON in UTF-8: " + json_complaint(e.what()));
  }

 private:
  enum class Inside : std::uint8_t { nothing, header, metadata, tensor, shape, offsets };

  void begin_tensor() {
    inside_ = Inside::tensor;
    entry_ = {};
    offsets_.clear();
    fields_.clear();
  }
  void begin_field(const std::string& text) {
    field_ = text;
    if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets")
      fail_tensor("has the unknown field " + in_quotes(text));
    if (std::find(fields_.begin(), fields_.end(), field_) != fields_.end())
      fail_tensor("has " + field_ + " twice");
    fields_.push_back(field_);
  }
  void end_tensor() {
    if (fields_.size() != 3) fail_tensor("lacks dtype, shape or data_offsets");
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    if (entry_.end < entry_.begin) fail_tensor("ends before it begins");
    const std::optional<std::int64_t> bytes = byte_count(entry_.info.type, entry_.info.shape);
    if (!bytes)
      fail_tensor("has shape " + shape_text(entry_.info.shape) + ", more than a file can hold");
    if (std::uint64_t(*bytes) != entry_.end - entry_.begin)
      fail_tensor("has shape " + shape_text(entry_.info.shape) + " of " +
                  std::string(name_of(entry_.info.type)) + ", that is " + std::to_string(*bytes) +
                  " bytes, but its data_offsets span " + std::to_string(entry_.end - entry_.begin));
    entries.emplace(name_, std::move(entry_));
  }
  bool unexpected(const std::string& what) {
    const bool outside = inside_ == Inside::nothing;
    fail("the header has " + what + (outside ? " outside its object" : " in the wrong place, in ") +
         (outside ? "" : in_quotes(name_)));
  }
  [[noreturn]] void fail_tensor(const std::string& what) {
    fail("tensor " + in_quotes(name_) + " " + what);
  }
  [[noreturn]] void fail(const std::string& what) {
    throw Error(path_.string(), what, "Download or save the file again");
  }

  std::filesystem::path path_;
  Inside inside_ = Inside::nothing;
  bool metadata_seen_ = false;
  std::string name_, field_;
  SafeTensorsEntry entry_;
  std::vector<std::uint64_t> offsets_;
  std::vector<std::string> fields_;
};

/// A tensor as it is stored: little-endian, row-major.
struct StoredTensor {
  StoredType type = StoredType::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;
};

/// A safetensors file, checked when it is opened: afterwards every tensor is known to lie inside
/// the file, next to its neighbours, with the size that its shape says.
class SafeTensors final : public TensorSource {
 public:
  explicit SafeTensors(const std::filesystem::path& path) : file_(path) {
    reject_git_lfs_pointer(path, file_.beginning(64));
    SafeTensorsHeader header(path, header_text());
    entries_ = std::move(header.entries);
    metadata_ = std::move(header.metadata);
    check_layout();
  }

  const std::filesystem::path& path() const override { return file_.path(); }
  /// In the order of their bytes.
  const std::vector<std::string>& names() const override { return names_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const TensorInfo* find(std::string_view name) const override {
    const auto found = entries_.find(name);
    return found == entries_.end() ? nullptr : &found->second.info;
  }

  /// A tensor of any type.
  StoredTensor stored(std::string_view name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end())
      throw Error(path().string(), "there is no tensor " + in_quotes(name),
                  "Use the file that was saved with it");
    const SafeTensorsEntry& entry = found->second;
    StoredTensor tensor{entry.info.type, entry.info.shape,
                        std::vector<std::byte>(std::size_t(entry.end - entry.begin))};
    file_.read(data_begin_ + entry.begin, tensor.data.data(), tensor.data.size());
    return tensor;
  }

  void read_some(std::string_view name, std::int64_t first, float* destination,
                 std::size_t count) const override {
    const SafeTensorsEntry& entry = entries_.find(name)->second;
    const auto width = std::size_t(size_of(entry.info.type));
    std::uint64_t at = data_begin_ + entry.begin + std::uint64_t(first) * width;
    if (entry.info.type == StoredType::f32)
      return file_.read(at, destination, count * sizeof(float));
    std::vector<std::byte> narrow(std::min(count, std::size_t{1} << 18) * width);
    for (std::size_t done = 0; done < count;) {
      const std::size_t some = std::min(narrow.size() / width, count - done);
      file_.read(at, narrow.data(), some * width);
      widen(destination + done, narrow.data(), some, entry.info.type);
      done += some, at += some * width;
    }
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(path().string(), what, "Download or save the file again");
  }

  std::string header_text() {
    if (file_.size() < 8)
      fail("has " + std::to_string(file_.size()) + " bytes, too few for a safetensors file");
    std::uint64_t length = 0;
    file_.read(0, &length, 8);  // little-endian, as every supported host
    if (length > safetensors_longest_header || length > file_.size() - 8)
      fail("claims a header of " + std::to_string(length) + " bytes in a file of " +
           std::to_string(file_.size()) + " (at most " +
           std::to_string(safetensors_longest_header) + "): it is cut or is not safetensors");
    data_begin_ = 8 + std::size_t(length);
    std::string text(std::size_t(length), '\0');
    file_.read(8, text.data(), text.size());
    return text;
  }

  /// The tensors, in the order of their bytes, must fill the file: no hole, no overlap, no rest.
  void check_layout() {
    std::vector<std::pair<const std::string*, const SafeTensorsEntry*>> order;
    for (const auto& [name, entry] : entries_) order.emplace_back(&name, &entry);
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
    });
    std::uint64_t expected = 0;
    for (const auto& [name, entry] : order) {
      if (entry->begin != expected)
        fail("tensor " + in_quotes(*name) + " begins at byte " + std::to_string(entry->begin) +
             ", but the one before it ends at " + std::to_string(expected) +
             (entry->begin < expected ? " (overlap)" : " (hole)"));
      expected = entry->end;
      names_.push_back(*name);
    }
    const std::uint64_t present = file_.size() - data_begin_;
    if (expected > present)
      fail("is cut short: tensor " + in_quotes(names_.back()) + " ends at byte " +
           std::to_string(expected) + " of the data, but the file holds " +
           std::to_string(present));
    if (expected < present)
      fail("has " + std::to_string(present - expected) + " bytes after the last tensor");
  }

  OpenFile file_;
  std::map<std::string, SafeTensorsEntry, std::less<>> entries_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> names_;
  std::size_t data_begin_ = 0;
};

/// A tensor to write. `bytes(offset, limit)` gives the bytes at `offset`: at least one, at most
/// `limit`; it is called with rising offsets until the tensor is complete, so the bytes need never
/// be in host memory all at once.
struct TensorToSave {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<std::int64_t> shape;
  std::function<std::span<const std::byte>(std::uint64_t offset, std::size_t limit)> bytes;
};

/// A tensor that lies in host memory, contiguous; `data` must live until the write is done.
inline TensorToSave tensor_in_memory(std::string name, StoredType type,
                                     std::vector<std::int64_t> shape, const void* data) {
  const auto* first = static_cast<const std::byte*>(data);
  const std::uint64_t size = std::uint64_t(byte_count(type, shape).value_or(0));
  return {std::move(name), type, std::move(shape),
          [first, size](std::uint64_t offset, std::size_t limit) {
            return std::span(first + offset,
                             std::size_t(std::min<std::uint64_t>(limit, size - offset)));
          }};
}

/// The header of the file, padded to a multiple of 8, for tensors in their final order. Equal to
/// what the safetensors library writes for at most one metadata key (it keeps no order of keys).
inline std::string safetensors_header(const std::filesystem::path& path,
                                      std::span<const TensorToSave> tensors,
                                      const std::map<std::string, std::string>& metadata,
                                      std::uint64_t& data_bytes) {
  std::string out;
  const auto append = [&out](std::string_view text) {
    out += out.empty() ? '{' : ',';
    out += text;
  };
  try {
    if (!metadata.empty()) append("\"__metadata__\":" + nlohmann::json(metadata).dump());
    data_bytes = 0;
    for (const TensorToSave& tensor : tensors) {
      const std::optional<std::int64_t> bytes = byte_count(tensor.type, tensor.shape);
      std::uint64_t end = 0;
      if (!bytes || __builtin_add_overflow(data_bytes, std::uint64_t(*bytes), &end))
        throw Error(path.string(),
                    "tensor " + in_quotes(tensor.name) + " has the impossible shape " +
                        shape_text(tensor.shape),
                    "Save a tensor of non-negative extents");
      append(nlohmann::json(tensor.name).dump() + ":{\"dtype\":\"" +
             std::string(name_of(tensor.type)) +
             "\",\"shape\":" + nlohmann::json(tensor.shape).dump() + ",\"data_offsets\":[" +
             std::to_string(data_bytes) + "," + std::to_string(end) + "]}");
      data_bytes = end;
    }
  } catch (const nlohmann::json::exception& e) {
    throw Error(path.string(), "a name is not UTF-8: " + json_complaint(e.what()),
                "Name tensors and metadata in UTF-8");
  }
  out += out.empty() ? "{}" : "}";
  out.resize((out.size() + 7) / 8 * 8, ' ');
  if (out.size() > safetensors_longest_header)
    throw Error(path.string(), "the header would have " + std::to_string(out.size()) + " bytes",
                "Save fewer tensors or less metadata in one file");
  return out;
}

/// Streams the bytes of one tensor into the file.
inline void append_tensor(AtomicFile& file, const std::filesystem::path& path,
                          const TensorToSave& tensor) {
  constexpr std::size_t chunk = std::size_t{16} << 20;
  const std::uint64_t size = std::uint64_t(byte_count(tensor.type, tensor.shape).value());
  for (std::uint64_t offset = 0; offset < size;) {
    const std::size_t limit = std::size_t(std::min<std::uint64_t>(chunk, size - offset));
    const std::span<const std::byte> part = tensor.bytes(offset, limit);
    if (part.empty() || part.size() > limit)
      throw Error(path.string(),
                  "the source of tensor " + in_quotes(tensor.name) + " gave " +
                      std::to_string(part.size()) + " bytes where 1 to " + std::to_string(limit) +
                      " were asked for",
                  "Make it give the bytes at the offset it is asked for");
    file.write(part.data(), part.size());
    offset += part.size();
  }
}

/// Writes a safetensors file of any size, atomically, in the library's order: widest type first,
/// then by name.
inline void write_safetensors(const std::filesystem::path& path, std::vector<TensorToSave> tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToSave& a, const TensorToSave& b) {
    return a.type != b.type ? a.type > b.type : a.name < b.name;
  });
  std::map<std::string_view, int> seen{{"__metadata__", 1}};
  for (const TensorToSave& tensor : tensors)
    if (seen[tensor.name]++ > 0)
      throw Error(path.string(), "two tensors would be called " + in_quotes(tensor.name),
                  "Give every tensor its own name");

  std::uint64_t data_bytes = 0;
  const std::string header = safetensors_header(path, tensors, metadata, data_bytes);
  const std::uint64_t length = header.size();
  AtomicFile file(path, 8 + length + data_bytes);
  file.write(&length, 8);
  file.write(header);
  for (const TensorToSave& tensor : tensors) append_tensor(file, path, tensor);
  file.commit();
}

}  // namespace ctrain
