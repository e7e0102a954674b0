// A policy that offloads gives the whole program: the files of the resident one, to the byte, also
// where one goes on from the other; and a disk that fails ends it with one line and loses nothing.
#include <csignal>
#include <cstring>
#include <functional>
#include <string_view>
#include <thread>

#include "run.hpp"

using namespace end_to_end;

namespace {

/// Full checkpoints, validations, a model and predictions.
Run everything(const Workspace& w, const std::string& program) {
  return Run(w, program)
      .set("max_epochs", "2")
      .set("every_n_train_steps", "2")
      .set("save_weights_only", "False")
      .set("save_top_k", "-1")
      .set("filename", "{step}")
      .set("export_path", "out");
}

/// Bytes that nobody would want to read in a report.
bool same(const Workspace& a, const Workspace& b, const std::string& file) {
  return a.text(file) == b.text(file);
}

/// A hash of what comes after a safetensors file's header, which also tells of the run.
std::size_t tensors(const std::string& file) {
  std::uint64_t header = 0;
  REQUIRE(file.size() > sizeof header);
  std::memcpy(&header, file.data(), sizeof header);
  return std::hash<std::string_view>()(std::string_view(file).substr(8 + std::size_t(header)));
}

/// Two runs have written the same.
void same_files(const Workspace& a, const Workspace& b) {
  CHECK(same(a, b, "predict.json"));
  CHECK((snapshot(a.path("out")) == snapshot(b.path("out"))));
  CHECK(numbers(a) == numbers(b));
  REQUIRE(a.names("checkpoints") == b.names("checkpoints"));
  for (const std::string& name : a.names("checkpoints")) {
    CAPTURE(name);
    CHECK(same(a, b, "checkpoints/" + name));
  }
}

/// Until a run has something to lose.
void wait_for(const Workspace& w, const std::string& file) {
  for (int tries = 0; tries < 6000 && !w.has(file); ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  REQUIRE(w.has(file));
}

/// A run without an end that has done its first steps.
struct Endless {
  const Workspace& w;
  Run run;
  pid_t child;

  explicit Endless(const Workspace& workspace) : w(workspace), run(everything(w, tiny_offloaded)) {
    run.set("max_epochs", "100000").set("every_n_train_steps", "100000").set("save_top_k", "1");
    run.set("offload_dir", "scratch");
    std::filesystem::create_directory(w.path("scratch"));
    child = run.start();
    wait_for(w, "lightning_logs/version_0/metrics.csv");
  }
  /// The file that has no name, of the process.
  std::filesystem::path scratch_file() const {
    const std::filesystem::path all = "/proc/" + std::to_string(child) + "/fd";
    std::error_code gone;
    for (const auto& entry : std::filesystem::directory_iterator(all))
      if (std::filesystem::read_symlink(entry.path(), gone).string().find("/scratch/") !=
          std::string::npos)
        return entry.path();
    return {};
  }
  /// One line that has these words, and nothing left in the folder.
  void fails(const std::vector<std::string>& words) const {
    const Outcome end = run.wait_for(child);
    INFO(end.err);
    CHECK(end.exit_code == 1);
    CHECK(end.err.starts_with("error: scratch/ctrain-offload: "));
    CHECK(std::count(end.err.begin(), end.err.end(), '\n') == 1);
    for (const std::string& word : words) {
      CAPTURE(word);
      CHECK(end.err.find(word) != end.err.npos);
    }
    CHECK(w.names("scratch").empty());
  }
};

}  // namespace

TEST_CASE("end_to_end.offload.writes_the_files_of_the_resident_program") {
  const Workspace resident(60), offloaded(60);
  everything(resident, tiny_resident).succeed();
  const std::string shown = everything(offloaded, tiny_offloaded).succeed();
  CHECK(shown.find(" GiB in .; peak ") != shown.npos);
  same_files(resident, offloaded);
}

TEST_CASE("end_to_end.offload.each_program_goes_on_from_the_other") {
  const Workspace whole(60);
  everything(whole, tiny_resident).succeed();
  for (const auto& [first, then] :
       {std::pair(tiny_resident, tiny_offloaded), std::pair(tiny_offloaded, tiny_resident)}) {
    const Workspace w(60);
    everything(w, first).set("max_steps", "4").succeed();
    w.remove("lightning_logs");
    everything(w, then).set("ckpt_path", "checkpoints/step=4.ckpt").succeed();
    CHECK(same(w, whole, "predict.json"));
    CHECK((snapshot(w.path("out")) == snapshot(whole.path("out"))));
    for (const std::string& name : whole.names("checkpoints"))
      CHECK(tensors(w.text("checkpoints/" + name)) == tensors(whole.text("checkpoints/" + name)));
  }
}

TEST_CASE("end_to_end.offload.starts_from_a_pretrained_model") {
  const Workspace resident(60), offloaded(60);
  Run(resident).set("export_path", "pretrained").succeed();
  resident.remove("checkpoints"), resident.remove("lightning_logs");
  std::filesystem::copy(resident.path("pretrained"), offloaded.path("pretrained"));
  everything(resident, tiny_resident).set("pretrained_model_path", "pretrained").succeed();
  everything(offloaded, tiny_offloaded).set("pretrained_model_path", "pretrained").succeed();
  same_files(resident, offloaded);
}

TEST_CASE("end_to_end.offload.two_runs_in_one_folder_and_on_a_file_system_in_memory") {
  const Workspace resident(60), one(60), other(60);
  everything(resident, tiny_resident).succeed();
  const Disk disk(one.path("disk"), 64 << 20);
  if (!disk.mounted()) WARN("no file system can be mounted here");
  const std::string folder = one.path("disk").string();
  const Run first = everything(one, tiny_offloaded).set("offload_dir", folder),
            second = everything(other, tiny_offloaded).set("offload_dir", folder);
  const pid_t a = first.start(), b = second.start();
  CHECK(first.wait_for(a).exit_code == 0);
  CHECK(second.wait_for(b).exit_code == 0);
  CHECK(one.names("disk").empty());
  same_files(resident, one);
  same_files(resident, other);
}

// faults -----------------------------------------------------------------------------------------

TEST_CASE("end_to_end.offload.a_disk_that_cannot_hold_the_states_is_refused") {
  const Workspace w(60);
  SECTION("no folder") {
    everything(w, tiny_offloaded)
        .set("offload_dir", "nowhere")
        .refuse({"nowhere/ctrain-offload: no file can be made there (No such file or directory)",
                 "--offload_dir"});
  }
  SECTION("a file") {
    everything(w, tiny_offloaded)
        .set("offload_dir", "data/vocab.txt")
        .refuse({"no file can be made there (Not a directory)"});
  }
  SECTION("a folder that takes no files") {
    everything(w, tiny_offloaded)
        .set("offload_dir", "/proc/self")
        .refuse({"/proc/self/ctrain-offload: no file can be made there ("});
  }
  SECTION("files may not grow") {
    everything(w, tiny_offloaded)
        .longest_file(100'000)
        .refuse(
            {"./ctrain-offload: the disk has no room for the ", "(File too large; ", "ulimit -f"});
  }
  SECTION("a full disk") {
    const Disk disk(w.path("disk"), 512 << 10);
    if (!disk.mounted()) {
      WARN("no file system can be mounted here");
      return;
    }
    everything(w, tiny_offloaded)
        .set("offload_dir", "disk")
        .refuse({"disk/ctrain-offload: the disk has no room for the ",
                 "(No space left on device; 524288 are free)", "Free as much"});
  }
  SECTION("a policy that keeps nothing there") {
    everything(w, tiny_resident)
        .set("offload_dir", ".")
        .refuse({"flag --offload_dir: ", "keeps nothing on a disk", "OffloadTo::disk"});
  }
}

TEST_CASE("end_to_end.offload.a_write_that_fails_ends_the_run") {
  const Workspace w(60);
  const Endless endless(w);
  const rlimit none{64 << 10, 64 << 10};  // logs are shorter, states are not
  REQUIRE(::prlimit(endless.child, RLIMIT_FSIZE, &none, nullptr) == 0);
  endless.fails({"writing ", " at offset ", "failed (File too large)", "last checkpoint"});
}

// Writes that are on their way make the file longer again: then bytes are missing in its middle.
TEST_CASE("end_to_end.offload.a_file_that_is_cut_ends_the_run") {
  const Workspace w(60);
  const Endless endless(w);
  REQUIRE(::truncate(endless.scratch_file().c_str(), 64 << 10) == 0);
  endless.fails({"states of ", " at offset ", "last checkpoint"});
}

TEST_CASE("end_to_end.offload.other_bytes_than_were_written_end_the_run") {
  const Workspace w(60);
  const Endless endless(w);
  const int file = ::open(endless.scratch_file().c_str(), O_WRONLY);
  REQUIRE(file >= 0);
  const std::vector<char> other(1 << 20, 'x');
  REQUIRE(::pwrite(file, other.data(), other.size(), 0) == ssize_t(other.size()));
  ::close(file);
  endless.fails({"what was written there is not what is read", "at offset ",
                 "has the wrong checksum", "last checkpoint"});
}

TEST_CASE("end_to_end.offload.a_process_that_is_killed_leaves_its_checkpoints_and_nothing_else") {
  const Workspace w(60), whole(60);
  everything(whole, tiny_offloaded).succeed();
  std::filesystem::create_directory(w.path("scratch"));
  Run run = everything(w, tiny_offloaded).set("offload_dir", "scratch");
  const pid_t child = run.start();
  wait_for(w, "checkpoints/step=4.ckpt");
  REQUIRE(::kill(child, SIGKILL) == 0);
  run.wait_for(child);
  CHECK(w.names("scratch").empty());
  CHECK(same(w, whole, "checkpoints/step=4.ckpt"));
  run.set("ckpt_path", "checkpoints/step=4.ckpt").succeed();
  CHECK(same(w, whole, "predict.json"));
  CHECK((snapshot(w.path("out")) == snapshot(whole.path("out"))));
}
