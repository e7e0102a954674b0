#include <ctrain/io/atomic_file.hpp>

#include <csignal>

#include "scratch.hpp"
#include <sys/mount.h>
#include <sys/resource.h>

namespace {

using ctrain::AtomicFile;
using scratch::error_of;

int files_in(const std::filesystem::path& folder) {
  return int(std::distance(std::filesystem::directory_iterator(folder), {}));
}

}  // namespace

TEST_CASE("io.atomic_file.replaces_the_old_file_only_on_commit") {
  const scratch::Folder folder;
  const auto path = folder.path / "weights";
  scratch::put(path, "old");
  {
    AtomicFile file(path);
    file.write("new ");
    file.write("contents");
    CHECK(scratch::bytes_of(path) == "old");
    file.commit();
  }
  CHECK(scratch::bytes_of(path) == "new contents");
  CHECK(files_in(folder.path) == 1);
}

TEST_CASE("io.atomic_file.leaves_nothing_when_it_is_abandoned") {
  const scratch::Folder folder;
  {
    AtomicFile file(folder.path / "weights");
    file.write("half");
    CHECK(files_in(folder.path) == 1);
  }
  CHECK(files_in(folder.path) == 0);
}

TEST_CASE("io.atomic_file.permissions_follow_the_umask") {
  const scratch::Folder folder;
  const mode_t before = ::umask(027);
  ctrain::write_file(folder.path / "file", "x");
  ::umask(before);
  const auto mode = std::filesystem::status(folder.path / "file").permissions();
  CHECK(int(mode) == 0640);
}

TEST_CASE("io.atomic_file.refuses_a_disk_that_is_too_small_before_writing") {
  const scratch::Folder folder;
  const auto path = folder.path / "weights";
  scratch::put(path, "old");
  const std::string error = error_of([&] { AtomicFile(path, std::uint64_t{1} << 60); });
  CHECK_THAT(error, Catch::StartsWith(path.string() + ": cannot write (No space left on device)"));
  CHECK_THAT(error, Catch::Contains("the file needs 1152921504606846976 bytes"));
  CHECK_THAT(error, Catch::Contains("Free "));
  CHECK(scratch::bytes_of(path) == "old");
  CHECK(files_in(folder.path) == 1);
}

TEST_CASE("io.atomic_file.a_full_disk_keeps_the_old_file_and_says_how_much_to_free") {
  const scratch::Folder folder;
  if (::mount("tmpfs", folder.path.c_str(), "tmpfs", 0, "size=64k") != 0) {
    WARN("cannot mount a small disk here: skipped");
    return;
  }
  const auto path = folder.path / "weights";
  scratch::put(path, "old");
  const std::string big(100'000, 'x');
  const std::string error = error_of([&] {
    AtomicFile file(path);
    file.write(big);
    file.commit();
  });
  CHECK_THAT(error, Catch::Contains("No space left on device"));
  CHECK_THAT(error, Catch::Contains("needs 100000 bytes and the disk has 61440 free"));
  CHECK_THAT(error, Catch::Contains("Free 38560 bytes on the disk of " + folder.path.string()));
  CHECK(scratch::bytes_of(path) == "old");
  CHECK(files_in(folder.path) == 1);
  ::umount(folder.path.c_str());
}

TEST_CASE("io.atomic_file.a_short_write_is_an_error_and_leaves_nothing") {
  const scratch::Folder folder;
  const auto path = folder.path / "weights";
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit small{.rlim_cur = 1000, .rlim_max = before.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of([&] { ctrain::write_file(path, std::string(3000, 'x')); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  CHECK_THAT(error, Catch::Contains("File too large"));
  CHECK_THAT(error, Catch::Contains("ulimit -f"));
  CHECK(files_in(folder.path) == 0);
}

TEST_CASE("io.atomic_file.names_the_directory_that_cannot_be_written") {
  const scratch::Folder folder;
  scratch::put(folder.path / "file", "x");
  const std::string below_file =
      error_of([&] { ctrain::write_file(folder.path / "file" / "weights", "x"); });
  CHECK_THAT(below_file,
             Catch::Contains("Create the directory " + (folder.path / "file").string()));
  const std::string absent =
      error_of([&] { ctrain::write_file(folder.path / "absent" / "weights", "x"); });
  CHECK_THAT(absent, Catch::Contains("cannot create (No such file or directory)"));
  const std::string directory = error_of([&] { ctrain::write_file(folder.path, "x"); });
  CHECK_THAT(directory, Catch::Contains("Choose a name that is not a directory"));
  const std::string denied = ctrain::write_error("/data/weights", "create", EACCES, 0).what();
  CHECK(denied ==
        "/data/weights: cannot create (Permission denied). Make /data writable for this user, or "
        "choose another directory");
}
