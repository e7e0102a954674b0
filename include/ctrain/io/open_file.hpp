/// \file  A file that is open for reading: its size, and its bytes from any place.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ctrain {

/// The Error for a file that cannot be opened or read.
inline Error read_error(const std::filesystem::path& path, int code) {
  return {path.string(), "cannot read (" + std::generic_category().message(code) + ")",
          code == ENOENT || code == ENOTDIR ? "Check the path" : "Make it a readable file"};
}

/// A regular file. Takes neither memory nor address space, however large the file is.
class OpenFile {
 public:
  explicit OpenFile(std::filesystem::path path)
      : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) throw read_error(path_, errno);
    if (const int code = look(); code != 0) {
      ::close(descriptor_);
      throw read_error(path_, code);
    }
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { ::close(descriptor_); }

  const std::filesystem::path& path() const { return path_; }
  std::size_t size() const { return size_; }
  int descriptor() const { return descriptor_; }

  /// Bytes [at, at + count). Throws Error where the file ends before, or cannot be read.
  void read(std::uint64_t at, void* to, std::size_t count) const {
    char* next = static_cast<char*>(to);
    for (std::size_t left = count; left > 0;) {
      const ssize_t done = ::pread(descriptor_, next, left, off_t(at));
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) throw read_error(path_, errno);
      if (done == 0)
        throw Error(path_.string(), "ends at byte " + std::to_string(at) + ", before its last data",
                    "Download or save the file again");
      next += done, left -= std::size_t(done), at += std::uint64_t(done);
    }
  }
  /// At most the first `most` bytes.
  std::string beginning(std::size_t most) const {
    std::string text(size_ < most ? size_ : most, '\0');
    read(0, text.data(), text.size());
    return text;
  }

 private:
  /// 0, or the error code.
  int look() {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) return errno;
    if (S_ISDIR(status.st_mode)) return EISDIR;
    if (!S_ISREG(status.st_mode)) return EINVAL;
    size_ = std::size_t(status.st_size);
    return 0;
  }

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::size_t size_ = 0;
};

}  // namespace ctrain
