/// \file  A file that states wait in: as large as it will ever be, past the page cache, gone with the process.   floor 5: backend
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/core/units.hpp>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace ctrain {

/// Nothing but this process sees it: its name is taken away at once, so that however the process
/// ends, the disk is free again. Offsets, sizes and addresses are multiples of `block`.
class ScratchFile {
 public:
  static constexpr bytes block = 4096;

  /// Makes a file of `size` bytes in `directory`. Throws Error where that cannot be, above all if
  /// the disk has no room for all of it.
  ScratchFile(const std::filesystem::path& directory, bytes size)
      : place_((directory / "ctrain-offload").string()), size_(size) {
    open_unnamed(directory);
    if (size == 0) return;
    if (const int error = posix_fallocate(file_, 0, size); error != 0) {
      ::close(file_);
      throw Error(place_,
                  "the disk has no room for the " + std::to_string(size) +
                      " bytes that this policy keeps there (" + std::strerror(error) + ")",
                  "Free as much, name another directory, or set offload to OffloadTo::host");
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
  void open_unnamed(const std::filesystem::path& directory) {
    std::string name = (directory / "ctrain-offload-XXXXXX").string();
    file_ = ::mkstemp(name.data());
    if (file_ < 0)
      throw Error(place_, std::string("no file can be made there (") + std::strerror(errno) + ")",
                  "Name a directory that exists and may be written");
    const int direct = ::open(name.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    ::unlink(name.c_str());
    direct_ = direct >= 0;
    if (direct_) ::close(std::exchange(file_, direct));
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
