#include <ctrain/trainer/checkpoint_rules.hpp>

#include <catch2/catch.hpp>

#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string>

namespace {

using namespace ctrain;
using Moment = CheckpointMoment;

const double nan = std::numeric_limits<double>::quiet_NaN();

/// A directory as the rules see it: names, and what was done to them.
struct Folder {
  CheckpointRules rules;
  std::set<std::string> files = {};

  CheckpointActions at(const CheckpointEvent& event) {
    const auto exists = [this](const std::string& name) { return files.count(name) > 0; };
    const CheckpointActions actions = rules.decide(event, exists);
    if (!actions.save.empty()) files.insert(actions.save);
    files.erase(actions.remove);
    return actions;
  }
  CheckpointActions at_step(std::int64_t step, double accuracy) {
    return at({.epoch = 0, .step = step, .metrics = {{"val_acc", accuracy}}});
  }
};

CheckpointOptions best_accuracy(std::int64_t top_k, std::int64_t period = 200) {
  return {.monitor = "val_acc",
          .better = Better::larger,
          .top_k = top_k,
          .every_n_train_steps = period,
          .filename = "model-{epoch:02d}-{val_acc:.4f}"};
}

std::string named(const std::string& pattern, const CheckpointEvent& event) {
  return CheckpointName(pattern).format(event);
}

TEST_CASE("trainer.checkpoint_rules.names_fill_their_fields") {
  const CheckpointEvent event{
      .epoch = 3, .step = 1200, .metrics = {{"val_acc", 0.70123}, {"loss", 2}, {"tiny", 1e-5}}};
  CHECK(named("model-{epoch:02d}-{val_acc:.4f}", event) == "model-epoch=03-val_acc=0.7012");
  CHECK(named("", event) == "epoch=3-step=1200");
  CHECK(named("{epoch}", event) == "epoch=3");
  CHECK(named("{epoch:03d}", event) == "epoch=003");
  CHECK(named("{epoch}-{val_acc:.2f}", event) == "epoch=3-val_acc=0.70");
  CHECK(named("{missing:.2f}", event) == "missing=0.00");
  CHECK(named("{missing}", event) == "missing=0");
  CHECK(named("{loss}-{val_acc}-{tiny}", event) == "loss=2.0-val_acc=0.70123-tiny=1e-05");
  CHECK(named("{step:.1f}", event) == "step=1200.0");
  CHECK(named("plain", event) == "plain");
}

TEST_CASE("trainer.checkpoint_rules.invalid_names_are_refused") {
  for (const char* pattern :
       {"{", "}", "{}", "{:02d}", "{epoch", "a}b", "{{epoch}}", "{epoch:x}", "{epoch:.d}",
        "{epoch:999d}", "{epoch:.999f}", "{epoch:.2d}", "{val_acc:02d}", "logs/{epoch}",
        "{a/b:.2f}", "{a.b}", "{a!r}", "{epoch:{step}}", "{epoch:>9}"})
    CHECK_THROWS_WITH(CheckpointName(pattern), Catch::StartsWith("flag --filename: "));
  CHECK_THROWS_AS(named(std::string(300, 'a'), {}), Error);
}

TEST_CASE("trainer.checkpoint_rules.stale_metrics_give_versions_of_one_name") {
  // n = 200, validation every 1000 steps: nothing before 1000, then the value of step 1000.
  Folder folder{CheckpointRules(best_accuracy(3))};
  const CheckpointActions first = folder.at({.step = 200, .metrics = {{"train_loss", 0.7}}});
  CHECK_THAT(first.warning, Catch::Contains("val_acc") && Catch::Contains("train_loss"));
  CHECK(first.save.empty());
  CHECK(folder.at({.step = 400}).warning.empty());  // warned once
  const std::string name = "model-epoch=00-val_acc=0.7012";
  CHECK(folder.at_step(1200, 0.7012).save == name + ".ckpt");
  CHECK(folder.at_step(1400, 0.7012).save == name + "-v1.ckpt");
  CHECK(folder.at_step(1600, 0.7012).save == name + "-v2.ckpt");
  CHECK(folder.at_step(1800, 0.7012).save.empty());  // a tie does not replace
  CHECK(folder.files.size() == 3);
}

TEST_CASE("trainer.checkpoint_rules.metric_missing_after_validation_is_an_error") {
  Folder folder{CheckpointRules(best_accuracy(3))};
  CHECK_THROWS_WITH(
      folder.at({.step = 200, .validation_has_run = true, .metrics = {{"val_loss", 1.0}}}),
      Catch::Contains("val_acc") && Catch::Contains("val_loss"));
}

TEST_CASE("trainer.checkpoint_rules.a_better_one_replaces_the_worst") {
  Folder folder{CheckpointRules(best_accuracy(2))};
  folder.at_step(200, 0.6);
  folder.at_step(400, 0.8);
  CHECK(folder.at_step(600, 0.5).save.empty());
  const CheckpointActions better = folder.at_step(800, 0.7);
  CHECK(better.save == "model-epoch=00-val_acc=0.7000.ckpt");
  CHECK(better.remove == "model-epoch=00-val_acc=0.6000.ckpt");
  CHECK(folder.rules.state().best == KeptCheckpoint{"model-epoch=00-val_acc=0.8000.ckpt", 0.8});
  // The best of two equal ones is the older.
  folder.at_step(1000, 0.8);
  CHECK(folder.rules.state().best.name == "model-epoch=00-val_acc=0.8000.ckpt");
  CHECK(folder.files.count("model-epoch=00-val_acc=0.8000-v1.ckpt") == 1);
}

TEST_CASE("trainer.checkpoint_rules.mode_min_prefers_smaller") {
  Folder folder{CheckpointRules({.monitor = "loss", .top_k = 1, .every_n_train_steps = 1})};
  CHECK(folder.at({.step = 1, .metrics = {{"loss", 2.0}}}).save == "epoch=0-step=1.ckpt");
  CHECK(folder.at({.step = 2, .metrics = {{"loss", 3.0}}}).save.empty());
  CHECK(folder.at({.step = 3, .metrics = {{"loss", 1.0}}}).remove == "epoch=0-step=1.ckpt");
}

TEST_CASE("trainer.checkpoint_rules.nan_is_worst") {
  Folder folder{CheckpointRules(best_accuracy(1))};
  CHECK(folder.at_step(200, nan).save == "model-epoch=00-val_acc=nan.ckpt");
  CHECK(folder.at_step(400, nan).save.empty());
  CHECK(folder.at_step(600, 0.1).remove == "model-epoch=00-val_acc=nan.ckpt");
  CHECK(folder.at_step(800, nan).save.empty());
}

TEST_CASE("trainer.checkpoint_rules.the_leaving_name_is_written_over") {
  Folder folder{CheckpointRules(best_accuracy(1))};
  folder.at_step(200, 0.70001);
  const CheckpointActions same_name = folder.at_step(400, 0.70002);
  CHECK(same_name.save == "model-epoch=00-val_acc=0.7000.ckpt");
  CHECK(same_name.remove.empty());
  CHECK(folder.files.size() == 1);
}

TEST_CASE("trainer.checkpoint_rules.k_zero_saves_none_and_minus_one_all") {
  Folder none{CheckpointRules(best_accuracy(0))};
  CHECK(none.at_step(200, 0.9).save.empty());
  Folder all{CheckpointRules(best_accuracy(-1))};
  for (int i = 1; i <= 9; ++i) all.at_step(200 * i, 0.5);
  CHECK(all.files.size() == 9);
  CHECK(all.files.count("model-epoch=00-val_acc=0.5000-v8.ckpt") == 1);
}

TEST_CASE("trainer.checkpoint_rules.triggers_fire_at_their_moment_and_once_a_step") {
  CheckpointRules by_steps(best_accuracy(3, 200));
  CHECK(by_steps.due(Moment::train_batch_end, 200));
  CHECK_FALSE(by_steps.due(Moment::train_batch_end, 199));
  CHECK_FALSE(by_steps.due(Moment::train_batch_end, 0));
  CHECK_FALSE(by_steps.due(Moment::validation_end, 200));
  CHECK_FALSE(by_steps.due(Moment::train_epoch_end, 200));

  CheckpointOptions options = best_accuracy(3, 0);
  CheckpointRules by_epoch(options);
  CHECK(by_epoch.due(Moment::train_epoch_end, 7));
  CHECK_FALSE(by_epoch.due(Moment::validation_end, 7));
  CHECK_FALSE(by_epoch.due(Moment::train_batch_end, 7));
  options.save_on_train_epoch_end = false;
  CheckpointRules by_validation(options);
  CHECK(by_validation.due(Moment::validation_end, 7));
  CHECK_FALSE(by_validation.due(Moment::train_epoch_end, 7));

  Folder folder{by_validation};
  const CheckpointEvent event{
      .moment = Moment::validation_end, .step = 7, .metrics = {{"val_acc", 0.5}}};
  CHECK_FALSE(folder.at(event).save.empty());
  CHECK(folder.at(event).save.empty());
}

TEST_CASE("trainer.checkpoint_rules.ranks_save_only_together") {
  CheckpointRules rules(best_accuracy(1));
  const CheckpointEvent event{.step = 200, .metrics = {{"val_acc", 0.5}}};
  const auto exists = [](const std::string&) { return false; };
  CHECK(rules.decide(event, exists, [](bool) { return false; }).save.empty());
  CHECK(rules.state().kept.empty());
  CHECK_FALSE(rules.decide(event, exists, [](bool mine) { return mine; }).save.empty());
}

TEST_CASE("trainer.checkpoint_rules.without_a_metric_the_latest_is_kept") {
  Folder folder{CheckpointRules({.monitor = "", .top_k = 1, .every_n_train_steps = 10})};
  CHECK(folder.at({.step = 10}).remove.empty());
  const CheckpointActions next = folder.at({.step = 20});
  CHECK(next.save == "epoch=0-step=20.ckpt");
  CHECK(next.remove == "epoch=0-step=10.ckpt");
}

TEST_CASE("trainer.checkpoint_rules.a_resumed_run_goes_on_with_its_best") {
  CheckpointOptions options = best_accuracy(2);
  options.directory = "/log";
  Folder before{CheckpointRules(options)};
  before.at_step(200, 0.6);
  before.at_step(400, 0.8);

  CheckpointRules after(options);
  CHECK(after.restore(before.rules.state()).empty());
  CHECK(after.state() == before.rules.state());
  Folder resumed{after, before.files};
  CHECK(resumed.at_step(600, 0.55).save.empty());
  CHECK(resumed.at_step(800, 0.7).remove == "model-epoch=00-val_acc=0.6000.ckpt");

  options.directory = "/elsewhere";
  CheckpointRules moved(options);
  CHECK_THAT(moved.restore(before.rules.state()), Catch::Contains("/elsewhere"));
  CHECK(moved.state().kept.empty());
  CHECK(moved.state().best.name == "model-epoch=00-val_acc=0.8000.ckpt");
}

TEST_CASE("trainer.checkpoint_rules.random_runs_end_as_lightnings_do") {
  std::ifstream table(CTRAIN_TEST_DATA "/checkpoint_rules/traces.tsv");
  std::unique_ptr<Folder> folder;
  const auto shown = [](const std::string& name) { return name.empty() ? "-" : name; };
  int moments = 0;
  for (std::string line; std::getline(table, line);) {
    std::istringstream row(line);
    std::string first;
    row >> first;
    if (first == "run") {
      CheckpointOptions options{.monitor = "val_acc"};
      std::string mode;
      row >> mode >> options.top_k >> options.every_n_train_steps >>
          options.save_on_train_epoch_end >> options.filename;
      options.better = mode == "min" ? Better::smaller : Better::larger;
      folder = std::make_unique<Folder>(Folder{CheckpointRules(options)});
      continue;
    }
    CheckpointEvent event{.moment = Moment(std::stoi(first))};
    std::string accuracy, written, deleted;
    row >> event.epoch >> event.step >> accuracy >> written >> deleted;
    if (accuracy != "-") event.metrics["val_acc"] = std::stod(accuracy);
    INFO("row: " << line);
    const CheckpointActions actions = folder->at(event);
    CHECK(shown(actions.save) == written);
    CHECK(shown(actions.remove) == deleted);
    ++moments;
  }
  CHECK(moments == 24 * 27);
}

TEST_CASE("trainer.checkpoint_rules.contradictory_options_are_refused") {
  CHECK_THROWS_AS(CheckpointRules(best_accuracy(-2)), Error);
  CHECK_THROWS_AS(CheckpointRules(best_accuracy(1, -1)), Error);
  CHECK_THROWS_AS(CheckpointRules({.monitor = "", .top_k = 3}), Error);
}

}  // namespace

TEST_CASE("trainer.checkpoint_rules.what_was_due_and_waited_is_written_once") {
  Folder folder{CheckpointRules(best_accuracy(-1))};
  const auto waited = [&](std::int64_t step) {
    return folder.at({.step = step, .has_waited = true, .metrics = {{"val_acc", 0.5}}}).save;
  };
  CHECK(folder.rules.due(Moment::train_batch_end, 200));
  CHECK(folder.at_step(203, 0.5).save.empty());
  CHECK(waited(203) == "model-epoch=00-val_acc=0.5000.ckpt");
  CHECK(waited(203).empty());
  CHECK(folder.at_step(400, 0.5).save != "");
  CHECK(waited(400).empty());  // it was written for another reason
  CHECK(Folder{CheckpointRules(best_accuracy(0))}
            .at({.step = 203, .has_waited = true, .metrics = {{"val_acc", 0.5}}})
            .save.empty());
}
