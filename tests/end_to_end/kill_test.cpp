// A process that dies at any moment leaves checkpoints of which each is whole.
#include <csignal>
#include <random>
#include <thread>

#include "run.hpp"

using namespace end_to_end;

TEST_CASE("end_to_end.kill.every_checkpoint_is_whole") {
  const Workspace w(60);
  Run run(w);
  run.set("every_n_train_steps", "1").set("save_top_k", "2").set("save_weights_only", "False");
  run.set("max_epochs", "1000").set("filename", "{step}").set("monitor", "train_loss");
  std::mt19937 random(1);
  std::size_t resumed = 0;
  for (int i = 0; i < 10; ++i) {
    const pid_t child = run.start();
    std::this_thread::sleep_for(std::chrono::milliseconds(60 + random() % 200));
    const int signal = i % 2 == 0 ? SIGKILL : SIGINT;
    REQUIRE(::kill(child, signal) == 0);
    CHECK(run.wait_for(child).signal == signal);
    if (!w.has("checkpoints")) continue;
    for (const std::string& name : w.names("checkpoints")) {
      if (!name.ends_with(".ckpt")) continue;
      CAPTURE(name);
      Run(w)
          .set("ckpt_path", "checkpoints/" + name)
          .set("max_steps", "1")
          .set("dirpath", "elsewhere")
          .succeed();
      ++resumed;
    }
    w.remove("checkpoints");
  }
  CHECK(resumed > 5);
}
