/// \file  A whole file as read-only memory.   floor 7: io
#pragma once

#include <ctrain/io/open_file.hpp>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <string_view>
#include <utility>

#include <sys/mman.h>

namespace ctrain {

/// Maps a regular file for reading. The file must not shrink while it is mapped (the kernel would
/// send SIGBUS); files that ctrain writes are replaced by a rename and never shrink.
class MappedFile {
 public:
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {
    const OpenFile file(path_);
    size_ = file.size();
    if (size_ == 0) return;  // mmap refuses an empty range
    void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
    if (memory == MAP_FAILED) throw read_error(path_, errno);
    data_ = memory;
    ::madvise(data_, size_, MADV_SEQUENTIAL);  // a hint: read ahead, and forget behind
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  const std::filesystem::path& path() const { return path_; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  std::filesystem::path path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace ctrain
