// A process that dies at any moment leaves checkpoints of which each is whole.
#include <csignal>
#include <random>
#include <thread>

#include "run.hpp"

using namespace end_to_end;

namespace {

bool has_checkpoint(const Workspace& w) {
  if (!w.has("checkpoints")) return false;
  const std::vector<std::string> names = w.names("checkpoints");
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name.ends_with(".ckpt"); });
}

/// However slow the machine is: until the first checkpoint is there.
void wait_for_checkpoint(const Workspace& w) {
  for (int tries = 0; tries < 6000 && !has_checkpoint(w); ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  REQUIRE(has_checkpoint(w));
}

}  // namespace

TEST_CASE("end_to_end.kill.every_checkpoint_is_whole") {
  const Workspace w(60);
  Run run(w);
  run.set("every_n_train_steps", "1").set("save_top_k", "2").set("save_weights_only", "False");
  run.set("max_epochs", "1000").set("filename", "{step}").set("monitor", "train_loss");
  std::mt19937 random(1);
  for (int i = 0; i < 10; ++i) {
    const pid_t child = run.start();
    wait_for_checkpoint(w);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 50'000));
    const int signal = i % 2 == 0 ? SIGKILL : SIGINT;
    REQUIRE(::kill(child, signal) == 0);
    CHECK(run.wait_for(child).signal == signal);
    for (const std::string& name : w.names("checkpoints")) {
      if (!name.ends_with(".ckpt")) continue;
      CAPTURE(name);
      Run(w)
          .set("ckpt_path", "checkpoints/" + name)
          .set("max_steps", "1")
          .set("dirpath", "elsewhere")
          .succeed();
    }
    w.remove("checkpoints");
  }
}

TEST_CASE("end_to_end.kill.what_is_left_over_is_named") {
  const Workspace w(40);
  std::filesystem::create_directory(w.path("checkpoints"));
  w.put("checkpoints/a.ckpt.tmp-1-0", "half");
  const std::string shown = Run(w).set("max_steps", "0").succeed();
  CHECK(shown.find("checkpoints/a.ckpt.tmp-1-0 is not whole") != shown.npos);
  CHECK(w.has("checkpoints/a.ckpt.tmp-1-0"));
}
