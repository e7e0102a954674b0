/// \file  Files that are either whole or untouched: written beside, synced, renamed.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace ctrain {

/// The directory that holds a file; "." for a bare name.
inline std::filesystem::path folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.parent_path();
  return folder.empty() ? std::filesystem::path(".") : folder;
}

/// Bytes that a process may still write below `folder`; nothing if the file system does not say.
inline std::optional<std::uint64_t> free_bytes(const std::filesystem::path& folder) {
  struct statvfs disk {};
  if (::statvfs(folder.c_str(), &disk) != 0 || disk.f_blocks == 0) return std::nullopt;
  return std::uint64_t(disk.f_bavail) * disk.f_frsize;
}

/// The Error for a failed write of `path`: the reason, and what mends it. `needed` is the size of
/// the whole file as far as it is known.
inline Error write_error(const std::filesystem::path& path, const std::string& doing, int code,
                         std::uint64_t needed) {
  const std::string folder = folder_of(path).string();
  std::string what = "cannot " + doing + " (" + std::generic_category().message(code) + ")";
  switch (code) {
    case ENOSPC:
    case EDQUOT: {
      const std::uint64_t available = free_bytes(folder).value_or(0);
      what += "; the file needs " + std::to_string(needed) + " bytes and the disk has " +
              std::to_string(available) + " free";
      const std::uint64_t missing = needed > available ? needed - available : needed;
      return {path.string(), what,
              "Free " + std::to_string(missing) + " bytes on the disk of " + folder +
                  ", or write to another disk"};
    }
    case EACCES:
    case EPERM:
    case EROFS:
      return {path.string(), what,
              "Make " + folder + " writable for this user, or choose another directory"};
    case ENOENT:
    case ENOTDIR:
      return {path.string(), what, "Create the directory " + folder + ", or choose another"};
    case EISDIR:
    case ENOTEMPTY:
      return {path.string(), what, "Choose a name that is not a directory"};
    case EFBIG:
      return {path.string(), what,
              "Raise the file size limit (ulimit -f), or write to a file system that holds files "
              "of " +
                  std::to_string(needed) + " bytes"};
    default:
      return {path.string(), what, "Check the disk of " + folder + ", or choose another directory"};
  }
}

/// Whether a name is one that AtomicFile gives to a file which is not complete yet.
inline bool is_temporary(const std::filesystem::path& path) {
  return path.filename().string().find(".tmp-") != std::string::npos;
}

/// A file that appears under its name only when it is complete. Bytes go to a temporary file in the
/// same directory; commit() syncs it, renames it over `path` and syncs the directory. Until
/// commit() returns, an older file of that name is intact; on any failure, and when commit() is
/// never called, the temporary is removed. Every failure throws Error with the path and the fix.
class AtomicFile {
 public:
  /// `expected_bytes`, when known, refuses a disk that is too small before the first byte is
  /// written.
  explicit AtomicFile(std::filesystem::path path, std::uint64_t expected_bytes = 0)
      : path_(std::move(path)), temporary_(temporary_name(path_)), expected_(expected_bytes) {
    if (const auto available = free_bytes(folder_of(path_)); available && expected_ > *available)
      throw write_error(path_, "write", ENOSPC, expected_);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0) throw write_error(path_, "create", errno, expected_);
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() { discard(); }

  void write(const void* data, std::size_t size) {
    const char* next = static_cast<const char*>(data);
    for (std::size_t left = size; left > 0;) {
      const ssize_t done = ::write(descriptor_, next, left);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) fail("write", done < 0 ? errno : ENOSPC, written_ + left);
      next += done;
      left -= std::size_t(done);
      written_ += std::uint64_t(done);
    }
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Where the bytes are until commit().
  const std::filesystem::path& temporary() const { return temporary_; }

  void commit() {
    if (::fsync(descriptor_) != 0) fail("sync", errno, written_);
    // Some network file systems report a full disk only here.
    if (::close(std::exchange(descriptor_, -1)) != 0) fail("close", errno, written_);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename", errno, written_);
    temporary_.clear();
    sync_folder();
  }

 private:
  static std::filesystem::path temporary_name(const std::filesystem::path& path) {
    static std::atomic<unsigned> serial{0};
    std::filesystem::path name = path;
    name += ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(serial++);
    return name;
  }

  [[noreturn]] void fail(const char* doing, int code, std::uint64_t size) {
    discard();  // first, so that the free bytes in the message are what the user will see
    throw write_error(path_, doing, code, std::max(expected_, size));
  }

  void discard() noexcept {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
    if (temporary_.empty()) return;
    ::unlink(temporary_.c_str());
    temporary_.clear();
  }

  /// Makes the rename itself durable. A file system without directory syncs says EINVAL: that is
  /// fine.
  void sync_folder() {
    const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;  // a directory that may be written but not listed: nothing to sync with
    const int code = ::fsync(folder) == 0 ? 0 : errno;
    ::close(folder);
    if (code != 0 && code != EINVAL) throw write_error(path_, "sync", code, written_);
  }

  std::filesystem::path path_, temporary_;
  std::uint64_t expected_ = 0, written_ = 0;
  int descriptor_ = -1;
};

/// Writes at any place of a file that is being made, by this process or another one. Every failure
/// throws Error with `path`, the name that the file will have.
class SharedWriter {
 public:
  SharedWriter(std::filesystem::path path, const std::filesystem::path& temporary)
      : path_(std::move(path)), descriptor_(::open(temporary.c_str(), O_WRONLY | O_CLOEXEC)) {
    if (descriptor_ < 0 && errno == ENOENT)
      throw Error(path_.string(), "this rank does not see the file that rank 0 writes",
                  "Name a folder that all ranks share");
    if (descriptor_ < 0) throw write_error(path_, "open", errno, 0);
  }
  SharedWriter(const SharedWriter&) = delete;
  SharedWriter& operator=(const SharedWriter&) = delete;
  ~SharedWriter() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  void write(std::uint64_t at, const void* data, std::size_t size) {
    const char* next = static_cast<const char*>(data);
    for (std::size_t left = size; left > 0;) {
      const ssize_t done = ::pwrite(descriptor_, next, left, off_t(at));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) throw write_error(path_, "write", done < 0 ? errno : ENOSPC, at + left);
      next += done, left -= std::size_t(done), at += std::uint64_t(done);
    }
  }
  /// Some network file systems report a full disk only here.
  void sync() {
    if (::fsync(descriptor_) != 0) throw write_error(path_, "sync", errno, 0);
    if (::close(std::exchange(descriptor_, -1)) != 0) throw write_error(path_, "close", errno, 0);
  }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Writes a whole small file in one go.
inline void write_file(const std::filesystem::path& path, std::string_view contents) {
  AtomicFile file(path, contents.size());
  file.write(contents);
  file.commit();
}

}  // namespace ctrain
