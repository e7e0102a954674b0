// A run that was stopped and goes on is the run that was not stopped, to the bit.
#include "run.hpp"

using namespace end_to_end;

namespace {

/// When a step's checkpoint is written.
enum class Saved { before_validation, after_validation };

/// The rows that come after a step's checkpoint.
std::vector<Row> rows_after(const std::vector<Row>& rows, int step, Saved saved) {
  std::vector<Row> later;
  for (const Row& row : rows) {
    const int at = std::stoi(row.at("step"));
    const bool to_come = saved == Saved::before_validation && row.contains("val_loss");
    if (at > step || (at == step && to_come)) later.push_back(row);
  }
  return later;
}

/// Trains at one go, writing full checkpoints as `run` asks for; then goes on from each of them.
void goes_on_from_each(const Workspace& w, const Run& run, Saved saved, std::size_t least) {
  const auto into = [&](const std::string& root) {
    return Run(run)
        .set("dirpath", root + "/checkpoints")
        .set("default_root_dir", root)
        .set("output_save_path", root + "/predict.json")
        .set("export_path", root + "/out");
  };
  into("whole").succeed();
  const std::vector<std::string> checkpoints = w.names("whole/checkpoints");
  REQUIRE(checkpoints.size() >= least);
  for (const std::string& name : checkpoints) {
    CAPTURE(name);
    into("resumed").set("ckpt_path", "whole/checkpoints/" + name).succeed();
    CHECK(w.text("resumed/out/model.safetensors") == w.text("whole/out/model.safetensors"));
    CHECK(w.text("resumed/predict.json") == w.text("whole/predict.json"));
    const int step = std::stoi(name.substr(std::string("step=").size()));
    CHECK(numbers(w, "resumed") == rows_after(numbers(w, "whole"), step, saved));
    w.remove("resumed");
  }
}

Run full_checkpoints(const Workspace& w, const std::string& program) {
  return Run(w, program)
      .set("max_epochs", "2")
      .set("save_weights_only", "False")
      .set("save_top_k", "-1")
      .set("filename", "{step}");
}

}  // namespace

TEST_CASE("end_to_end.resume.within_an_epoch_and_before_a_validation") {
  const Workspace w(60);
  const std::string program = GENERATE(tiny_packed, tiny_padded, tiny_offloaded);
  const int threads = GENERATE(1, 2);
  CAPTURE(program, threads);
  // A third of an epoch is a multiple of the period, so that some are written before a validation.
  Run run = full_checkpoints(w, program).threads(threads).set("every_n_train_steps", "3");
  goes_on_from_each(w, run.set("val_check_interval", "0.3"), Saved::before_validation, 4);
}

TEST_CASE("end_to_end.resume.before_a_validation_in_the_middle_of_a_step") {
  const Workspace w(60);  // micro-batch 3 ends a period and begins the second step of two
  Run run = full_checkpoints(w, tiny_padded).set("every_n_train_steps", "1");
  goes_on_from_each(w, run.set("val_check_interval", "3"), Saved::before_validation, 10);
}

TEST_CASE("end_to_end.resume.after_a_validation") {
  const Workspace w(60);
  const std::string program = GENERATE(tiny_packed, tiny_padded);
  CAPTURE(program);
  Run run = full_checkpoints(w, program).set("every_n_train_steps", "0");
  goes_on_from_each(w, run.set("val_check_interval", "0.3"), Saved::after_validation, 6);
}

TEST_CASE("end_to_end.resume.at_the_end_of_an_epoch") {
  const Workspace w(60);
  const std::string program = GENERATE(tiny_packed, tiny_padded);
  CAPTURE(program);
  goes_on_from_each(w, full_checkpoints(w, program).set("every_n_train_steps", "0"),
                    Saved::after_validation, 2);
}

TEST_CASE("end_to_end.resume.takes_the_seed_and_the_best_checkpoints_along") {
  const Workspace w(60);
  const auto run = [&](const std::string& epochs) {
    return Run(w)
        .set("seed", "7")
        .set("max_epochs", epochs)
        .set("every_n_train_steps", "2")
        .set("save_top_k", "2")
        .set("save_weights_only", "False")
        .set("filename", "{step}");
  };
  run("2").set("export_path", "out").succeed();
  const std::vector<std::string> best = w.names("checkpoints");
  const std::string weights = w.text("out/model.safetensors");
  CHECK(best.size() == 2);

  // From the older one, with the younger one gone as if the run had ended between the two.
  const auto step = [](const std::string& name) { return std::stoi(name.substr(5)); };
  const bool first_is_older = step(best[0]) < step(best[1]);
  w.remove("checkpoints/" + best[first_is_older ? 1 : 0]);
  run("2")
      .set("seed", "8")
      .set("ckpt_path", "checkpoints/" + best[first_is_older ? 0 : 1])
      .set("export_path", "out")
      .succeed();
  CHECK(w.text("out/model.safetensors") == weights);
  CHECK(w.names("checkpoints") == best);
}
