/// \file  Runs a whole program as a process of its own, in a folder with a slice of the bundled data.
#pragma once

#include <catch2/catch.hpp>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "../unit/io/scratch.hpp"
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace end_to_end {

inline const std::string tiny_packed = CTRAIN_TINY_PACKED;
inline const std::string tiny_padded = CTRAIN_TINY_PADDED;
inline const std::string tiny_resident = CTRAIN_TINY_RESIDENT;
inline const std::string tiny_offloaded = CTRAIN_TINY_OFFLOADED;

/// Path, relative to a folder, to bytes; those of a folder are "folder".
using Snapshot = std::map<std::string, std::string>;

inline Snapshot snapshot(const std::filesystem::path& folder) {
  Snapshot files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    files[std::filesystem::relative(entry.path(), folder).string()] =
        entry.is_regular_file() ? scratch::bytes_of(entry.path()) : "folder";
  return files;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

/// A folder in which programs run: data/ holds the first lines of the bundled files.
class Workspace {
 public:
  explicit Workspace(std::size_t pairs = 120) {
    std::filesystem::create_directories(path("data"));
    const std::filesystem::path bundled =
        std::filesystem::absolute(CTRAIN_SOURCE_DIR "/examples/data");
    for (const char* name : {"train.json", "dev.json", "test.json"}) {
      std::string slice;
      const std::vector<std::string> lines = lines_of(scratch::bytes_of(bundled / name));
      for (std::size_t i = 0; i < std::min(pairs, lines.size()); ++i) slice += lines[i] + "\n";
      put(std::string("data/") + name, slice);
    }
    put("data/vocab.txt", scratch::bytes_of(bundled / "vocab.txt"));
  }

  std::filesystem::path root() const { return folder_.path / "work"; }
  std::filesystem::path path(const std::string& name) const { return root() / name; }
  std::filesystem::path output(const char* stream) const { return folder_.path / stream; }

  bool has(const std::string& name) const { return std::filesystem::exists(path(name)); }
  std::string text(const std::string& name) const { return scratch::bytes_of(path(name)); }
  void put(const std::string& name, const std::string& bytes) const {
    scratch::put(path(name), bytes);
  }
  void copy(const std::string& from, const std::string& to) const {
    std::filesystem::copy(path(from), path(to), std::filesystem::copy_options::recursive);
  }
  void remove(const std::string& name) const { std::filesystem::remove_all(path(name)); }

  /// Names in a folder, sorted.
  std::vector<std::string> names(const std::string& folder) const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(path(folder)))
      found.push_back(entry.path().filename().string());
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  scratch::Folder folder_;
};

/// How a process ended, and what it wrote.
struct Outcome {
  int exit_code = -1;
  int signal = 0;  // that ended it
  std::string out, err;
};

/// One process. A flag that is set again has its last value, as on any command line.
class Run {
 public:
  explicit Run(const Workspace& workspace, std::string program = tiny_packed)
      : Run(workspace, std::vector{std::move(program)}) {}
  /// `command`: the program with what goes before it.
  Run(const Workspace& workspace, std::vector<std::string> command)
      : workspace_(&workspace), arguments_(std::move(command)) {
    set("data_dir", "data").set("texta_name", "sentence1").set("dirpath", "checkpoints");
    set("max_epochs", "1").set("log_every_n_steps", "1");
  }

  Run& set(const std::string& flag, const std::string& value) {
    arguments_.push_back("--" + flag);
    arguments_.push_back(value);
    return *this;
  }
  Run& threads(int count) {
    threads_ = count;
    return *this;
  }
  /// No file may grow beyond this, which is what a full disk is to a writer.
  Run& longest_file(rlim_t bytes) {
    longest_file_ = bytes;
    return *this;
  }

  pid_t start() const {
    const pid_t child = ::fork();
    if (child == 0) become_program();
    REQUIRE(child > 0);
    return child;
  }

  Outcome wait_for(pid_t child) const {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return {
        WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0,
        scratch::bytes_of(workspace_->output("out")), scratch::bytes_of(workspace_->output("err"))};
  }

  Outcome go() const { return wait_for(start()); }

  /// A run that must succeed; returns what it printed.
  std::string succeed() const {
    const Outcome outcome = go();
    CAPTURE(arguments_);
    REQUIRE(outcome.err == "");
    REQUIRE(outcome.exit_code == 0);
    return outcome.out;
  }

  /// A run that must end with exit code 1 after one line on stderr that has all these words.
  /// Returns the line.
  std::string fail(const std::vector<std::string>& words) const {
    const Outcome outcome = go();
    CAPTURE(arguments_);
    INFO(outcome.out);
    INFO(outcome.err);
    CHECK(outcome.exit_code == 1);
    CHECK(outcome.err.starts_with("error: "));
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK(outcome.err.ends_with('\n'));
    for (const std::string& word : words) {
      CAPTURE(word);
      CHECK(outcome.err.find(word) != outcome.err.npos);
    }
    return outcome.err;
  }

  /// The same, found before the run began: nothing in the workspace may have changed.
  void refuse(const std::vector<std::string>& words) const {
    const Snapshot before = snapshot(workspace_->root());
    fail(words);
    CHECK(snapshot(workspace_->root()) == before);
  }

 private:
  [[noreturn]] void become_program() const {
    const auto send = [this](int descriptor, const char* name) {
      const int file =
          ::open(workspace_->output(name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
      ::dup2(file, descriptor);
    };
    send(STDOUT_FILENO, "out");
    send(STDERR_FILENO, "err");
    ::setenv("OMP_NUM_THREADS", std::to_string(threads_).c_str(), 1);
    ::setenv("OMP_WAIT_POLICY", "passive", 1);
    const rlimit longest{longest_file_, longest_file_};
    ::setrlimit(RLIMIT_FSIZE, &longest);
    std::vector<char*> arguments;
    for (const std::string& argument : arguments_)
      arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    if (::chdir(workspace_->root().c_str()) == 0) ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }

  const Workspace* workspace_;
  std::vector<std::string> arguments_;
  int threads_ = 1;
  rlim_t longest_file_ = RLIM_INFINITY;
};

/// metrics.csv: a map from column to cell for each row.
using Row = std::map<std::string, std::string>;
inline std::vector<Row> metrics(const Workspace& w, const std::string& root = "lightning_logs",
                                int version = 0) {
  const auto cells = [](const std::string& line) {
    std::vector<std::string> found(1);
    for (const char c : line)
      if (c == ',')
        found.emplace_back();
      else
        found.back() += c;
    return found;
  };
  const std::vector<std::string> lines =
      lines_of(w.text(root + "/version_" + std::to_string(version) + "/metrics.csv"));
  REQUIRE(!lines.empty());
  const std::vector<std::string> header = cells(lines[0]);
  std::vector<Row> rows;
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const std::vector<std::string> row = cells(lines[i]);
    REQUIRE(row.size() == header.size());
    rows.emplace_back();
    for (std::size_t c = 0; c < row.size(); ++c)
      if (!row[c].empty()) rows.back()[header[c]] = row[c];
  }
  return rows;
}

/// All rows of metrics.csv, less what measures time.
inline std::vector<Row> numbers(const Workspace& w, const std::string& root = ".") {
  std::vector<Row> rows = metrics(w, root + "/lightning_logs");
  for (Row& row : rows) {
    row.erase("mfu");
    row.erase("useful_mfu");
  }
  return rows;
}

/// A file system of its own with room for so many bytes.
class Disk {
 public:
  Disk(const std::filesystem::path& where, std::size_t bytes) : where_(where) {
    std::filesystem::create_directory(where);
    const std::string size = fmt::format("size={}", bytes);
    mounted_ = ::mount("none", where.c_str(), "tmpfs", 0, size.c_str()) == 0;
  }
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;
  ~Disk() {
    if (mounted_) ::umount2(where_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }

 private:
  std::filesystem::path where_;
  bool mounted_ = false;
};

}  // namespace end_to_end
