/// \file  What the tests of files share: a folder that goes away, raw bytes, and the text of an Error.
#pragma once

#include <ctrain/core/error.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

namespace scratch {

/// A folder below the system's temporary directory, removed with all it holds.
struct Folder {
  std::filesystem::path path;

  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "ctrain-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(CTRAIN_TEST_DATA) / "files" / name;
}

inline std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void put(const std::filesystem::path& path, const std::string& bytes) {
  // Some file systems flush a file that is cut and rewritten, which would make loops slow.
  std::filesystem::remove(path);
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  out.flush();
  REQUIRE(out.good());
}

/// What the Error says that `act` throws.
template <class Act> std::string error_of(Act act) {
  try {
    act();
  } catch (const ctrain::Error& error) {
    return error.what();
  }
  return "no error";
}

/// Damages `bytes`: a few random bytes, or a cut.
inline std::string damaged(std::string bytes, std::mt19937& random) {
  if (random() % 4 == 0) return bytes.substr(0, random() % bytes.size());
  for (unsigned n = 1 + random() % 3; n > 0; --n)
    bytes[random() % bytes.size()] = char(random() % 4 == 0 ? 0xff : random());
  return bytes;
}

}  // namespace scratch
