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
Run on_ranks(const Workspace& w, int count, const char* program) {
  return Run(w, std::vector<std::string>{CTRAIN_MPIRUN, "--allow-run-as-root", "--oversubscribe",
                                         "-n", std::to_string(count), program});
}
Run on_two_ranks(const Workspace& w) {
  return on_ranks(w, 2, CTRAIN_TINY_TWO_RANKS_MPI);
}

/// Everything that a run writes goes to a folder of its own.
Run into(const Run& run, const std::string& root) {
  return Run(run)
      .set("dirpath", root + "/checkpoints")
      .set("default_root_dir", root)
      .set("output_save_path", root + "/predict.json")
      .set("export_path", root + "/out");
}
std::string saved(int step) {
  return "/checkpoints/step=" + std::to_string(step) + ".ckpt";
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
  const Run one = with_full_checkpoints(on_one_rank(w)),
            two = with_full_checkpoints(on_two_ranks(w));
  into(one, "whole").succeed();
  REQUIRE(w.names("whole/checkpoints").size() >= 6);

  into(two, "a").set("max_steps", "2").succeed();
  into(one, "b").set("ckpt_path", "a" + saved(2)).set("max_steps", "4").succeed();
  into(two, "c").set("ckpt_path", "b" + saved(4)).succeed();
  CHECK(w.text("c/out/model.safetensors") == w.text("whole/out/model.safetensors"));
  CHECK(w.text("c/predict.json") == w.text("whole/predict.json"));
}

TEST_CASE("end_to_end.ranks.one_bit_lamb_goes_on_to_the_bit_on_as_many_ranks_and_on_others") {
  const Workspace w(60);
  const auto on = [&](int count) {
    return with_full_checkpoints(on_ranks(w, count, CTRAIN_TINY_ONE_BIT_MPI));
  };
  into(on(2), "whole").succeed();
  REQUIRE(w.has("whole" + saved(6)));
  for (const int step : {2, 3, 5}) {  // frozen after the third
    CAPTURE(step);
    into(on(2), "resumed").set("ckpt_path", "whole" + saved(step)).succeed();
    CHECK(w.text("resumed/out/model.safetensors") == w.text("whole/out/model.safetensors"));
    CHECK(w.text("resumed/predict.json") == w.text("whole/predict.json"));
    w.remove("resumed");
  }
  const auto goes_on = [&](int count, const std::string& root, const std::string& words) {
    const std::string out = into(on(count), root).set("ckpt_path", "whole" + saved(5)).succeed();
    INFO(out);
    CHECK(out.find(words) != out.npos);
    CHECK(w.has(root + saved(6)));
  };
  goes_on(4, "four", "lost on 2 data ranks goes on as its mean on 4: not to the bit");
  goes_on(1, "one", "lost on several ranks is dropped, since one sends no signs");
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
