// 0/1 Adam on two processes: the program validates, saves, ends and goes on where ranks are synced.
#include "run.hpp"

using namespace end_to_end;

namespace {

// Steps 1 to 6, 8 and 12 end with equal weights, and the last of a run, whichever it is.
Run zero_one(const Workspace& w, const std::string& root) {
  return Run(w, std::vector<std::string>{CTRAIN_MPIRUN, "--allow-run-as-root", "--oversubscribe",
                                         "-n", "2", CTRAIN_TINY_ZERO_ONE_MPI})
      .set("max_epochs", "-1")
      .set("save_top_k", "-1")
      .set("save_weights_only", "False")
      .set("filename", "{step}")
      .set("dirpath", root + "/checkpoints")
      .set("default_root_dir", root)
      .set("output_save_path", root + "/predict.json")
      .set("export_path", root + "/out");
}

using Steps = std::vector<int>;

/// Those after which a run has validated.
Steps validated(const Workspace& w, const std::string& root) {
  Steps steps;
  for (const Row& row : metrics(w, root + "/lightning_logs"))
    if (row.contains("val_loss")) steps.push_back(std::stoi(row.at("step")));
  return steps;
}
/// Those of its checkpoints.
Steps saved(const Workspace& w, const std::string& root) {
  Steps steps;
  for (const std::string& name : w.names(root + "/checkpoints"))
    steps.push_back(std::stoi(name.substr(std::string("step=").size())));
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace

TEST_CASE("end_to_end.zero_one.what_falls_between_two_syncs_is_done_at_the_next") {
  const Workspace w(60);
  // A step takes two micro-batches, the sixth the last of its epoch, which ends no period.
  zero_one(w, "each")
      .set("max_steps", "10")
      .set("every_n_train_steps", "1")
      .set("val_check_interval", "2")
      .succeed();
  CHECK(saved(w, "each") == Steps{1, 2, 3, 4, 5, 6, 8, 10});
  CHECK(validated(w, "each") == Steps{1, 2, 3, 4, 5, 8, 10});
  zero_one(w, "seventh").set("max_steps", "14").set("every_n_train_steps", "7").succeed();
  CHECK(saved(w, "seventh") == Steps{8, 14});
}

TEST_CASE("end_to_end.zero_one.a_run_goes_on_from_each_sync_to_the_bit") {
  const Workspace w(60);
  const auto run = [&](const std::string& root) {
    return zero_one(w, root)
        .set("max_steps", "12")
        .set("every_n_train_steps", "1")
        .set("val_check_interval", "2");
  };
  run("whole").succeed();
  REQUIRE(saved(w, "whole") == Steps{1, 2, 3, 4, 5, 6, 8, 12});
  for (const int step : {3, 8}) {
    CAPTURE(step);
    run("resumed")
        .set("ckpt_path", "whole/checkpoints/step=" + std::to_string(step) + ".ckpt")
        .succeed();
    CHECK(w.text("resumed/out/model.safetensors") == w.text("whole/out/model.safetensors"));
    CHECK(w.text("resumed/predict.json") == w.text("whole/predict.json"));
    // written before the validation of its step, which at step 8 had waited since step 7
    Steps later = validated(w, "whole");
    std::erase_if(later, [&](int at) { return at < step; });
    CHECK(validated(w, "resumed") == later);
    w.remove("resumed");
  }
}
