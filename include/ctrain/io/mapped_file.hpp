/// \file  A whole file as read-only memory.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ctrain {

/// The Error for a file that cannot be opened or read.
inline Error read_error(const std::filesystem::path& path, int code) {
  return {path.string(), "cannot read (" + std::generic_category().message(code) + ")",
          code == ENOENT || code == ENOTDIR ? "Check the path" : "Make it a readable file"};
}

/// Maps a regular file for reading. Pages come from the page cache on first touch, so opening a
/// 5 GB file costs nothing. The file must not shrink while it is mapped (the kernel would send
/// SIGBUS); files that ctrain writes are replaced by a rename and never shrink.
class MappedFile {
 public:
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {
    const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw read_error(path_, errno);
    const int code = map(descriptor);
    ::close(descriptor);
    if (code != 0) throw read_error(path_, code);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  const std::filesystem::path& path() const { return path_; }
  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  std::size_t size() const { return size_; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  /// 0, or the error code.
  int map(int descriptor) {
    struct stat status {};
    if (::fstat(descriptor, &status) != 0) return errno;
    if (S_ISDIR(status.st_mode)) return EISDIR;
    if (!S_ISREG(status.st_mode)) return EINVAL;
    size_ = std::size_t(status.st_size);
    if (size_ == 0) return 0;  // mmap refuses an empty range
    void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (memory == MAP_FAILED) return errno;
    data_ = memory;
    ::madvise(data_, size_, MADV_SEQUENTIAL);  // a hint: read ahead, and forget behind
    return 0;
  }

  std::filesystem::path path_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace ctrain
