#include <ctrain/io/run_directory.hpp>

#include <catch2/catch.hpp>

#include <filesystem>
#include <set>
#include <thread>
#include <vector>

#include "scratch.hpp"

namespace {

using namespace ctrain;
namespace fs = std::filesystem;

/// An environment variable, put back afterwards.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    set(value);
  }
  ~Environment() { set(old_ ? old_->c_str() : nullptr); }

 private:
  void set(const char* value) { value ? ::setenv(name_, value, 1) : ::unsetenv(name_); }
  const char* name_;
  std::optional<std::string> old_;
};

TEST_CASE("io.run_directory.versions_count_up_from_the_highest") {
  const scratch::Folder root;
  CHECK(make_run_directory(root.path, std::nullopt).version == 0);
  CHECK(make_run_directory(root.path, std::nullopt).version == 1);
  for (const char* other : {"version_7", "version_x", "version_", "version_99999999999999999999",
                            "version_9223372036854775807", "version_-3", "other"})
    fs::create_directory(root.path / "lightning_logs" / other);
  const RunDirectory run = make_run_directory(root.path, std::nullopt);
  CHECK(run.version == 8);
  CHECK(run.path == root.path / "lightning_logs" / "version_8");
  CHECK(fs::is_directory(run.path));
}

TEST_CASE("io.run_directory.a_slurm_job_is_its_own_version") {
  const scratch::Folder root;
  const Environment id("SLURM_JOB_ID", "107491"), name("SLURM_JOB_NAME", "afqmc");
  CHECK(make_run_directory(root.path).path.filename() == "version_107491");
  CHECK(make_run_directory(root.path).version == 107491);  // started again
  scratch::put(root.path / "lightning_logs" / "version_5", "a file");
  CHECK_THROWS_AS(make_run_directory(root.path, 5), Error);
}

TEST_CASE("io.run_directory.interactive_and_odd_jobs_do_not_count") {
  {
    const Environment id("SLURM_JOB_ID", "5"), name("SLURM_JOB_NAME", "bash");
    CHECK_FALSE(slurm_job());
  }
  {
    const Environment id("SLURM_JOB_ID", "5x"), name("SLURM_JOB_NAME", nullptr);
    CHECK_FALSE(slurm_job());
  }
  const Environment id("SLURM_JOB_ID", nullptr);
  CHECK_FALSE(slurm_job());
}

TEST_CASE("io.run_directory.simultaneous_runs_get_different_versions") {
  const scratch::Folder root;
  std::vector<RunDirectory> runs(8);
  {
    std::vector<std::jthread> threads;
    for (RunDirectory& run : runs)
      threads.emplace_back([&] { run = make_run_directory(root.path, std::nullopt); });
  }
  std::set<std::int64_t> versions;
  for (const RunDirectory& run : runs) versions.insert(run.version);
  CHECK(versions.size() == runs.size());
}

TEST_CASE("io.run_directory.a_root_that_is_no_folder_is_an_error") {
  CHECK_THROWS_WITH(make_run_directory("/dev/null", std::nullopt),
                    Catch::StartsWith("flag --default_root_dir: "));
}

TEST_CASE("io.run_directory.hparams_are_yaml") {
  const scratch::Folder root;
  write_hparams(root.path, {{"train_batchsize", "4"},
                            {"label_name", "a \"b\"\\\n\x7f 相", true},
                            {"save_weights_only", "true"},
                            {"max_epochs", "null"}});
  CHECK(scratch::bytes_of(root.path / "hparams.yaml") ==
        "train_batchsize: 4\n"
        "label_name: \"a \\\"b\\\"\\\\\\x0a\\x7f 相\"\n"
        "save_weights_only: true\n"
        "max_epochs: null\n");
}

}  // namespace
