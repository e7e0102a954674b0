/// \file  A file that states wait in: as large as it will ever be, past the page cache, gone with the process.   floor 5: backend
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/core/units.hpp>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

namespace ctrain {

/// Nothing but this process sees it: it never has a name, so that however the process ends, the
/// disk is free again. All of its room is taken at start: a disk that fills up later does not stop
/// a run. Offsets, sizes and addresses are multiples of `block`.
class ScratchFile {
 public:
  static constexpr bytes block = 4096;

  /// Makes a file of `size` bytes in `directory`. Throws Error where that cannot be, above all if
  /// the disk has no room for all of it.
  ScratchFile(const std::filesystem::path& directory, bytes size)
      : place_((directory / "ctrain-offload").string()), size_(size), file_(open_in(directory)) {
    if (file_ < 0)
      throw Error(place_, std::string("no file can be made there (") + std::strerror(errno) + ")",
                  "Name a directory that exists and may be written (--offload_dir)");
    const int flags = ::fcntl(file_, F_GETFL);
    direct_ = ::fcntl(file_, F_SETFL, flags | O_DIRECT) == 0;
    if (size == 0) return;
    if (const int error = posix_fallocate(file_, 0, size); error != 0) {
      ::close(file_);
      throw no_room(directory, error);
    }
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { ::close(file_); }

  /// Whether reads and writes go past the page cache. Some file systems refuse.
  bool is_direct() const { return direct_; }
  const std::string& place() const { return place_; }
  bytes size() const { return size_; }
  int descriptor() const { return file_; }

  /// `what`() names the bytes in a message.
  template <class What> void write(bytes offset, const std::byte* from, bytes size, What&& what) {
    for (bytes done = 0; done < size;) {
      const ssize_t now = ::pwrite(file_, from + done, std::size_t(size - done), offset + done);
      if (now < 0 && errno == EINTR) continue;
      if (now <= 0) fail("writing", now, what(), offset + done);
      done += now;
    }
  }
  template <class What> void read(bytes offset, std::byte* to, bytes size, What&& what) {
    for (bytes done = 0; done < size;) {
      const ssize_t now = ::pread(file_, to + done, std::size_t(size - done), offset + done);
      if (now < 0 && errno == EINTR) continue;
      if (now <= 0) fail("reading", now, what(), offset + done);
      done += now;
    }
  }

 private:
  /// A file without a name, or -1 and errno.
  static int open_in(const std::filesystem::path& directory) {
    const int file = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return file;
    std::string name = (directory / "ctrain-offload-XXXXXX").string();  // the file system is old
    const int named = ::mkostemp(name.data(), O_CLOEXEC);
    if (named >= 0) ::unlink(name.c_str());
    return named;
  }
  Error no_room(const std::filesystem::path& directory, int error) const {
    std::error_code unknown;
    const std::filesystem::space_info space = std::filesystem::space(directory, unknown);
    const std::string free =
        unknown ? std::string() : "; " + std::to_string(space.available) + " are free";
    return {place_,
            "the disk has no room for the " + std::to_string(size_) +
                " bytes that this policy keeps there (" + std::strerror(error) + free + ")",
            error == EFBIG
                ? "Raise the file size limit (ulimit -f), or name another directory (--offload_dir)"
                : "Free as much, name another directory (--offload_dir), or set offload to "
                  "OffloadTo::host"};
  }
  [[noreturn]] void fail(const char* doing, ssize_t result, const std::string& what,
                         bytes offset) const {
    throw Error(place_,
                std::string(doing) + " " + what + " at offset " + std::to_string(offset) +
                    " failed (" + (result < 0 ? std::strerror(errno) : "the file ends there") + ")",
                "Look after the disk, then resume from the last checkpoint, which is unharmed");
  }

  std::string place_;
  bytes size_ = 0;
  int file_ = -1;
  bool direct_ = false;
};

}  // namespace ctrain
