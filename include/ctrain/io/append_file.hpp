/// \file  A file that grows record by record, such as a log.   floor 7: io
#pragma once

#include <ctrain/io/atomic_file.hpp>

#include <cerrno>
#include <filesystem>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace ctrain {

/// Appends to a file, which is created where there is none. After append() returns, the operating
/// system has the record: readers see it, and the end of this process cannot lose it.
class AppendFile {
 public:
  /// Throws Error where the file can be neither opened nor created.
  explicit AppendFile(std::filesystem::path path)
      : path_(std::move(path)),
        descriptor_(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) throw write_error(path_, "open", errno, 0);
  }
  AppendFile(AppendFile&& other) noexcept
      : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
  AppendFile& operator=(AppendFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~AppendFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  const std::filesystem::path& path() const { return path_; }

  /// Throws Error where the disk is full.
  void append(std::string_view record) {
    while (!record.empty()) {
      const ssize_t done = ::write(descriptor_, record.data(), record.size());
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) throw write_error(path_, "write", done < 0 ? errno : ENOSPC, record.size());
      record.remove_prefix(std::size_t(done));
    }
  }

 private:
  std::filesystem::path path_;
  int descriptor_;
};

}  // namespace ctrain
