// Processes that mpirun starts: one run on any number of them, and what is left when one dies.
#include <csignal>
#include <random>
#include <thread>

#include "run.hpp"

using namespace end_to_end;

namespace {

Run on_one_rank(const Workspace& w) {
  return Run(w, CTRAIN_TINY_ONE_RANK);
}
Run on_two_ranks(const Workspace& w) {
  return Run(w, std::vector<std::string>{CTRAIN_MPIRUN, "--allow-run-as-root", "--oversubscribe",
                                         "-n", "2", CTRAIN_TINY_TWO_RANKS_MPI});
}

Run with_full_checkpoints(Run run) {
  return run.set("every_n_train_steps", "1")
      .set("save_top_k", "-1")
      .set("save_weights_only", "False")
      .set("filename", "{step}")
      .set("max_epochs", "2");
}

/// The processes that another one has started and that are still there.
std::vector<pid_t> children_of(pid_t parent) {
  std::ifstream list("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) +
                     "/children");
  std::vector<pid_t> children;
  for (pid_t child = 0; list >> child;) children.push_back(child);
  return children;
}

}  // namespace

TEST_CASE("end_to_end.ranks.two_then_one_then_two_have_the_bits_of_one_throughout") {
  const Workspace w(60);
  const auto into = [&](const Run& run, const std::string& root) {
    return with_full_checkpoints(run)
        .set("dirpath", root + "/checkpoints")
        .set("default_root_dir", root)
        .set("output_save_path", root + "/predict.json")
        .set("export_path", root + "/out");
  };
  into(on_one_rank(w), "whole").succeed();
  const auto saved = [](int step) { return "/checkpoints/step=" + std::to_string(step) + ".ckpt"; };
  REQUIRE(w.names("whole/checkpoints").size() >= 6);

  into(on_two_ranks(w), "a").set("max_steps", "2").succeed();
  into(on_one_rank(w), "b").set("ckpt_path", "a" + saved(2)).set("max_steps", "4").succeed();
  into(on_two_ranks(w), "c").set("ckpt_path", "b" + saved(4)).succeed();
  CHECK(w.text("c/out/model.safetensors") == w.text("whole/out/model.safetensors"));
  CHECK(w.text("c/predict.json") == w.text("whole/predict.json"));
}

TEST_CASE("end_to_end.ranks.a_rank_that_dies_leaves_checkpoints_of_which_each_is_whole") {
  const Workspace w(60);
  std::mt19937 random(1);
  for (int i = 0; i < 4; ++i) {
    Run run = with_full_checkpoints(on_two_ranks(w)).set("max_epochs", "1000");
    const pid_t mpirun = run.start();
    std::vector<std::string> whole;
    const auto look = [&] {
      whole.clear();
      if (!w.has("checkpoints")) return;
      for (const std::string& name : w.names("checkpoints"))
        if (name.ends_with(".ckpt")) whole.push_back(name);
    };
    for (look(); whole.size() < 2; look())
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30'000));
    const std::vector<pid_t> ranks = children_of(mpirun);
    REQUIRE(ranks.size() == 2);
    REQUIRE(::kill(ranks[random() % 2], SIGKILL) == 0);
    CHECK(run.wait_for(mpirun).exit_code != 0);

    look();
    std::sort(whole.begin(), whole.end(), [](const std::string& a, const std::string& b) {
      return std::stoi(a.substr(5)) < std::stoi(b.substr(5));
    });
    CAPTURE(whole.back());
    on_one_rank(w)
        .set("ckpt_path", "checkpoints/" + whole.back())
        .set("max_steps", "1")
        .set("dirpath", "elsewhere")
        .succeed();
    w.remove("checkpoints");
  }
}
