// The file in which states wait, on disks that are full, fail, or lose what they were given.
#include <ctrain/backend/host/scratch_file.hpp>

#include <catch2/catch.hpp>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "../io/scratch.hpp"
#include <sys/resource.h>

namespace {

using namespace ctrain;
using scratch::error_of;

/// Memory that direct reads and writes take.
struct Block {
  std::unique_ptr<std::byte, void (*)(void*)> memory{
      static_cast<std::byte*>(std::aligned_alloc(4096, 2 * ScratchFile::block)), std::free};
  std::byte* at = memory.get();
};
std::string what() {
  return "states of block 3";
}

/// Puts another file in the place of a scratch file's.
void become(const ScratchFile& file, const char* path, int flags) {
  const int other = ::open(path, flags);
  REQUIRE(other >= 0);
  REQUIRE(::dup2(other, file.descriptor()) >= 0);
  ::close(other);
}

}  // namespace

TEST_CASE("backend.scratch_file.keeps_what_it_is_given_and_has_no_name") {
  const scratch::Folder folder;
  Block block;
  ScratchFile one(folder.path, 4 * ScratchFile::block), other(folder.path, 4 * ScratchFile::block);
  CHECK(is_empty(folder.path));
  for (ScratchFile* file : {&one, &other}) {
    std::memset(block.at, file == &one ? 1 : 2, 2 * ScratchFile::block);
    file->write(ScratchFile::block, block.at, 2 * ScratchFile::block, what);
  }
  one.read(2 * ScratchFile::block, block.at, ScratchFile::block, what);
  CHECK(block.at[0] == std::byte{1});
  CHECK(block.at[ScratchFile::block - 1] == std::byte{1});
}

// /dev/shm is memory; whether it takes direct reads depends on the kernel.
TEST_CASE("backend.scratch_file.lies_on_a_file_system_in_memory_as_well") {
  Block block;
  ScratchFile file("/dev/shm", 4 * ScratchFile::block);
  std::memset(block.at, 5, ScratchFile::block);
  file.write(0, block.at, ScratchFile::block, what);
  std::memset(block.at, 0, ScratchFile::block);
  file.read(0, block.at, ScratchFile::block, what);
  CHECK(block.at[77] == std::byte{5});
}

TEST_CASE("backend.scratch_file.says_where_it_cannot_be") {
  const scratch::Folder folder;
  scratch::put(folder.path / "file", "x");
  const auto complaint = [](const std::filesystem::path& where) {
    return error_of([&] { ScratchFile(where, 4096); });
  };
  using Catch::Matchers::Contains;
  CHECK_THAT(complaint(folder.path / "none"),
             Contains("none/ctrain-offload: no file can be made") &&
                 Contains("(No such file or directory)") && Contains("--offload_dir"));
  CHECK_THAT(complaint(folder.path / "file"), Contains("(Not a directory)"));
  CHECK_THAT(complaint("/proc/self"), Contains("no file can be made there"));
  CHECK_THAT(complaint(""), Contains("no file can be made there"));
}

TEST_CASE("backend.scratch_file.takes_all_of_its_room_at_start") {
  const scratch::Folder folder;
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
  const rlimit short_files{1 << 20, old.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &short_files) == 0);
  const std::string message = error_of([&] { ScratchFile(folder.path, 2 << 20); });
  REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
  std::signal(SIGXFSZ, before);
  using Catch::Matchers::Contains;
  CHECK_THAT(message, Contains("has no room for the 2097152 bytes") &&
                          Contains("(File too large; ") && Contains(" are free)") &&
                          Contains("ulimit -f"));
  const std::string huge = error_of([&] { ScratchFile(folder.path, bytes{1} << 46); });
  CHECK_THAT(huge, Contains("has no room for the 70368744177664 bytes"));
  CHECK(is_empty(folder.path));
}

TEST_CASE("backend.scratch_file.names_the_bytes_that_a_disk_does_not_take_or_give") {
  const scratch::Folder folder;
  Block block;
  std::memset(block.at, 0, 2 * ScratchFile::block);
  const auto fresh = [&] { return std::make_unique<ScratchFile>(folder.path, 65536); };
  const auto write = [&](ScratchFile& file) {
    return error_of([&] { file.write(8192, block.at, 4096, what); });
  };
  const auto read = [&](ScratchFile& file) {
    return error_of([&] { file.read(8192, block.at, 4096, what); });
  };
  using Catch::Matchers::Contains;
  SECTION("full in spite of its promise") {
    const auto file = fresh();
    become(*file, "/dev/full", O_RDWR);
    CHECK_THAT(write(*file),
               Contains("ctrain-offload: writing states of block 3 at offset 8192 failed (No space "
                        "left on device)") &&
                   Contains("resume from the last checkpoint"));
  }
  SECTION("an error on reading") {
    const auto file = fresh();
    become(*file, folder.path.c_str(), O_RDONLY);
    CHECK_THAT(read(*file), Contains("reading states of block 3 at offset 8192 failed (Is a "
                                     "directory)"));
  }
  SECTION("cut short") {
    const auto file = fresh();
    REQUIRE(::ftruncate(file->descriptor(), 8192) == 0);
    CHECK_THAT(read(*file), Contains("reading states of block 3 at offset 8192 failed (the file "
                                     "ends there)"));
  }
  SECTION("read only") {
    const auto file = fresh();
    become(*file, "/dev/null", O_RDONLY);
    CHECK_THAT(write(*file), Contains("writing states of block 3") && Contains("(Bad file "));
  }
}
