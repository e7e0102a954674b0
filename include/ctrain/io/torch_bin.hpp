/// \file  Reads pytorch_model.bin without running what is pickled in it.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/open_file.hpp>
#include <ctrain/io/pickle.hpp>
#include <ctrain/io/tensor_source.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zip.h>

namespace ctrain {

/// A ZIP file whose entries are stored, not compressed, as torch.save writes it: entry sizes are
/// then bounded by the size of the file. ZIP64 is fine. Contents are checked against their CRC when
/// an entry is read to its end.
class StoredZip {
 public:
  explicit StoredZip(std::filesystem::path path) : path_(std::move(path)) {
    check_beginning();
    int code = 0;
    archive_.reset(::zip_open(path_.c_str(), ZIP_RDONLY, &code));
    if (!archive_) {
      zip_error_t error;
      ::zip_error_init_with_code(&error, code);
      const std::string message = ::zip_error_strerror(&error);
      ::zip_error_fini(&error);
      fail("is a damaged ZIP file (" + message + ")");
    }
    list_entries();
  }

  const std::filesystem::path& path() const { return path_; }

  struct Entry {
    std::uint64_t index = 0;
    std::uint64_t size = 0;
  };
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }
  const Entry* find(std::string_view name) const {
    const auto found = entries_.find(name);
    return found == entries_.end() ? nullptr : &found->second;
  }

  /// Calls take(pointer, size) with the bytes [begin, end) of an entry, at most `chunk` at a time.
  template <class Take>
  void stream(const Entry& entry, std::uint64_t begin, std::uint64_t end, std::size_t chunk,
              Take take) const {
    const std::unique_ptr<zip_file_t, CloseEntry> file(
        ::zip_fopen_index(archive_.get(), entry.index, 0));
    if (!file) fail("cannot be read (" + std::string(::zip_strerror(archive_.get())) + ")");
    if (begin > 0 && ::zip_fseek(file.get(), std::int64_t(begin), SEEK_SET) != 0)
      fail("cannot be read (" + std::string(::zip_file_strerror(file.get())) + ")");
    std::vector<std::byte> buffer(std::size_t(std::min<std::uint64_t>(chunk, end - begin)));
    for (std::uint64_t at = begin; at < end;) {
      const std::size_t size = std::size_t(std::min<std::uint64_t>(buffer.size(), end - at));
      read_exactly(file.get(), buffer.data(), size);
      take(static_cast<const std::byte*>(buffer.data()), size);
      at += size;
    }
    std::byte beyond;  // reaching the end makes libzip compare the CRC
    if (begin == 0 && end == entry.size && ::zip_fread(file.get(), &beyond, 1) != 0)
      fail("is damaged (" + std::string(::zip_file_strerror(file.get())) + ")");
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(path_.string(), what, "Download or save the file again");
  }

 private:
  struct CloseArchive {
    void operator()(zip_t* archive) const { ::zip_discard(archive); }
  };
  struct CloseEntry {
    void operator()(zip_file_t* file) const { ::zip_fclose(file); }
  };

  /// Recognises what is not a ZIP file, in particular torch's older format.
  void check_beginning() const {
    const std::string beginning = OpenFile(path_).beginning(64);
    reject_git_lfs_pointer(path_, beginning);
    if (beginning.starts_with(
            "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46"))  // pickled 0x1950a86a20f9469cfc6c
      throw Error(path_.string(), "is in the format of torch before 1.6",
                  "Re-save it in Python: torch.save(torch.load(path, map_location=\"cpu\", "
                  "weights_only=True), path)");
    if (!beginning.starts_with("PK\x03\x04")) fail("is not a file that torch.save wrote");
  }

  void list_entries() {
    const zip_int64_t count = ::zip_get_num_entries(archive_.get(), 0);
    const std::uint64_t file_size = std::filesystem::file_size(path_);
    for (zip_int64_t i = 0; i < count; ++i) {
      zip_stat_t status;
      ::zip_stat_init(&status);
      constexpr zip_uint64_t needed =
          ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
      if (::zip_stat_index(archive_.get(), zip_uint64_t(i), ZIP_FL_ENC_RAW, &status) != 0 ||
          (status.valid & needed) != needed)
        fail("is a damaged ZIP file");
      const std::string name = status.name;
      if (status.comp_method != ZIP_CM_STORE || status.encryption_method != ZIP_EM_NONE)
        fail("its entry " + in_quotes(name) +
             " is compressed or encrypted, which torch.save never does");
      if (status.size > file_size)
        fail("its entry " + in_quotes(name) + " claims " + std::to_string(status.size) +
             " bytes in a file of " + std::to_string(file_size));
      if (!entries_.try_emplace(name, Entry{zip_uint64_t(i), status.size}).second)
        fail("has two entries called " + in_quotes(name));
    }
  }

  void read_exactly(zip_file_t* file, std::byte* data, std::size_t size) const {
    for (std::size_t done = 0; done < size;) {
      const zip_int64_t got = ::zip_fread(file, data + done, size - done);
      if (got < 0) fail("is damaged (" + std::string(::zip_file_strerror(file)) + ")");
      if (got == 0) fail("is cut short");
      done += std::size_t(got);
    }
  }

  std::filesystem::path path_;
  std::unique_ptr<zip_t, CloseArchive> archive_;
  std::map<std::string, Entry, std::less<>> entries_;
};

/// A file that torch.save (1.6 or later) wrote from a state dict. Only the list of tensors is kept
/// in memory; read() streams one tensor. Tensors may be views with any strides, and may share
/// storages.
class TorchBin final : public TensorSource {
 public:
  explicit TorchBin(const std::filesystem::path& path) : zip_(path) {
    folder_ = top_folder();
    const std::string order = small_entry("byteorder", "little");
    if (order != "little") zip_.fail("has byte order " + in_quotes(order) + " instead of little");
    StateDictPickle pickle(path.string(), data_pkl());
    for (NamedPickledTensor& row : pickle.read()) {
      check_storage(row);
      names_.push_back(row.name);
      tensors_.emplace(std::move(row.name), std::move(row.tensor));
    }
  }

  const std::filesystem::path& path() const override { return zip_.path(); }
  const std::vector<std::string>& names() const override { return names_; }
  const TensorInfo* find(std::string_view name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second.info;
  }

  void read_some(std::string_view name, std::int64_t first, float* destination,
                 std::size_t count) const override {
    const PickledTensor& tensor = tensors_.find(name)->second;
    if (count == 0) return;
    const std::int64_t all = *element_count(tensor.info.shape);
    if (tensor.last - tensor.offset + 1 == all && is_contiguous(tensor))
      read_contiguous(tensor, first, destination, count);
    else
      read_strided(tensor, first, destination, count);
  }

 private:
  /// The folder of data.pkl, with its slash: an archive has one, of any name.
  std::string top_folder() const {
    constexpr std::string_view file = "/data.pkl";
    std::string folder;
    for (const auto& [name, entry] : zip_.entries()) {
      if (!name.ends_with(file) || name.find('/') != name.size() - file.size()) continue;
      if (!folder.empty()) zip_.fail("has more than one data.pkl");
      folder = name.substr(0, name.size() - file.size() + 1);
    }
    if (folder.empty()) zip_.fail("has no data.pkl, so torch.save did not write it");
    return folder;
  }

  std::string whole_entry(const StoredZip::Entry& entry) const {
    std::string text;
    zip_.stream(entry, 0, entry.size, std::size_t{1} << 20,
                [&text](const std::byte* data, std::size_t size) {
                  text.append(reinterpret_cast<const char*>(data), size);
                });
    return text;
  }
  std::string small_entry(std::string_view name, std::string_view otherwise) const {
    const StoredZip::Entry* entry = zip_.find(folder_ + std::string(name));
    if (entry == nullptr) return std::string(otherwise);
    if (entry->size > 100) zip_.fail("its entry " + in_quotes(name) + " is too long");
    return whole_entry(*entry);
  }
  std::string data_pkl() const {
    const StoredZip::Entry& entry = *zip_.find(folder_ + "data.pkl");
    if (entry.size > pickle_longest)
      zip_.fail("its data.pkl has " + std::to_string(entry.size) + " bytes, more than " +
                std::to_string(pickle_longest));
    return whole_entry(entry);
  }

  const StoredZip::Entry* storage_of(const PickledTensor& tensor) const {
    return zip_.find(folder_ + "data/" + tensor.storage);
  }

  /// The storage must exist and have the size that the pickle says.
  void check_storage(const NamedPickledTensor& row) const {
    const StoredZip::Entry* entry = storage_of(row.tensor);
    if (entry == nullptr)
      zip_.fail("lacks the data of tensor " + in_quotes(row.name) + ", entry data/" +
                in_quotes(row.tensor.storage));
    const auto size = std::uint64_t(size_of(row.tensor.info.type));
    if (entry->size / size != std::uint64_t(row.tensor.storage_elements))
      zip_.fail("the data of tensor " + in_quotes(row.name) + " has " +
                std::to_string(entry->size) + " bytes, but should hold " +
                std::to_string(row.tensor.storage_elements) + " elements of " +
                std::to_string(size) + " bytes");
  }

  static bool is_contiguous(const PickledTensor& tensor) {
    std::int64_t expected = 1;
    for (std::size_t i = tensor.strides.size(); i-- > 0;) {
      const std::int64_t extent = tensor.info.shape[i];
      if (extent != 1 && tensor.strides[i] != expected) return false;
      expected *= extent;
    }
    return true;
  }

  /// Calls take(values, count) with `count` elements of the storage, from the tensor's `first` on.
  template <class Take>
  void stream_elements(const PickledTensor& tensor, std::int64_t first, std::size_t count,
                       Take take) const {
    const auto size = std::uint64_t(size_of(tensor.info.type));
    const StoredZip::Entry& entry = *storage_of(tensor);
    const std::uint64_t begin = std::uint64_t(tensor.offset + first) * size;
    if (count * size < entry.size) check_once(entry);
    zip_.stream(entry, begin, begin + count * size, std::size_t{1} << 20,
                [&](const std::byte* data, std::size_t bytes) { take(data, bytes / size); });
  }
  /// Only a storage that is read to its end shows whether it is damaged.
  void check_once(const StoredZip::Entry& entry) const {
    if (checked_.insert(entry.index).second)
      zip_.stream(entry, 0, entry.size, std::size_t{1} << 20, [](const std::byte*, std::size_t) {});
  }

  void read_contiguous(const PickledTensor& tensor, std::int64_t first, float* destination,
                       std::size_t count) const {
    stream_elements(tensor, first, count, [&](const std::byte* data, std::size_t part) {
      widen(destination, data, part, tensor.info.type);
      destination += part;
    });
  }

  /// Reads the window of the storage that the tensor spans, then picks its elements in row-major
  /// order.
  void read_strided(const PickledTensor& tensor, std::int64_t first, float* destination,
                    std::size_t count) const {
    std::vector<float> window(std::size_t(tensor.last - tensor.offset) + 1);
    float* next = window.data();
    stream_elements(tensor, 0, window.size(), [&](const std::byte* data, std::size_t part) {
      widen(next, data, part, tensor.info.type);
      next += part;
    });
    const std::vector<std::int64_t>& shape = tensor.info.shape;
    std::vector<std::int64_t> index(shape.size(), 0);
    std::int64_t at = 0;
    for (std::int64_t i = 0; i < first + std::int64_t(count); ++i) {
      if (i >= first) destination[i - first] = window[std::size_t(at)];
      for (std::size_t d = shape.size(); d-- > 0;) {
        at += tensor.strides[d];
        if (++index[d] < shape[d]) break;
        at -= shape[d] * tensor.strides[d];
        index[d] = 0;
      }
    }
  }

  StoredZip zip_;
  std::string folder_;
  std::vector<std::string> names_;
  std::map<std::string, PickledTensor, std::less<>> tensors_;
  mutable std::set<std::uint64_t> checked_;  // entries whose CRC was compared
};

}  // namespace ctrain
