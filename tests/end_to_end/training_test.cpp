// A run from its flags to its files.
#include "run.hpp"
#include <fmt/format.h>

using namespace end_to_end;

namespace {

/// Ids and labels of predict.json, each line being exactly as the original script writes it.
std::vector<std::string> predicted_labels(const Workspace& w, const std::string& file) {
  const std::vector<std::string> lines = lines_of(w.text(file));
  std::vector<std::string> labels;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string start = fmt::format("{{\"id\": {}, \"label\": \"", i);
    REQUIRE(lines[i].substr(0, start.size()) == start);
    labels.push_back(lines[i].substr(start.size(), 1));
    CHECK((labels.back() == "0" || labels.back() == "1"));
    REQUIRE(lines[i].substr(start.size() + 1) == "\"}");
  }
  return labels;
}

}  // namespace

TEST_CASE("end_to_end.training.writes_every_file") {
  const Workspace w;
  Run run(w);
  run.set("max_epochs", "2").set("val_check_interval", "0.5");
  run.set("monitor", "val_acc").set("mode", "max").set("every_n_train_steps", "0");
  run.set("filename", "model-{epoch:02d}-{step}-{val_acc:.4f}").set("save_top_k", "-1");
  const std::string shown = run.succeed();

  CHECK(shown.find("Epoch 0: 100%") != shown.npos);
  CHECK(shown.find("v_num=0") != shown.npos);
  CHECK(shown.find("always the most frequent label: 0.5") != shown.npos);
  CHECK(w.names("lightning_logs") == std::vector<std::string>{"version_0"});
  const auto logs = w.names("lightning_logs/version_0");
  REQUIRE(logs.size() == 3);
  CHECK(logs[0].starts_with("events.out.tfevents."));
  CHECK(logs[1] == "hparams.yaml");
  CHECK(logs[2] == "metrics.csv");
  const std::string settings = w.text("lightning_logs/version_0/hparams.yaml");
  for (const char* line : {"learning_rate: 0.001\n", "train_batchsize: 16\n", "max_length: 64\n",
                           "seed: 42\n", "precision: \"32\"\n", "monitor: \"val_acc\"\n"}) {
    CAPTURE(line);
    CHECK(settings.find(line) != settings.npos);
  }

  std::vector<std::string> names;  // of the checkpoints, one after each validation
  for (const Row& row : metrics(w))
    if (row.contains("val_acc"))
      names.push_back(fmt::format("model-epoch={:02d}-step={}-val_acc={:.4f}.ckpt",
                                  std::stoi(row.at("epoch")), row.at("step"),
                                  std::stod(row.at("val_acc"))));
  CHECK(names.size() == 4);
  CHECK(w.names("checkpoints") == names);
  CHECK(predicted_labels(w, "predict.json").size() == 120);

  Run(w).set("max_steps", "1").succeed();
  CHECK(w.names("lightning_logs") == std::vector<std::string>{"version_0", "version_1"});
}

TEST_CASE("end_to_end.training.loss_falls") {
  const Workspace w(40);
  for (const std::string& program : {tiny_packed, tiny_padded}) {
    Run(w, program)
        .set("max_epochs", "20")
        .set("learning_rate", "3e-3")
        .set("save_top_k", "0")
        .set("default_root_dir", program == tiny_packed ? "packed" : "padded")
        .succeed();
  }
  for (const char* root : {"packed/lightning_logs", "padded/lightning_logs"}) {
    std::vector<double> losses;
    for (const Row& row : metrics(w, root))
      if (row.contains("train_loss")) losses.push_back(std::stod(row.at("train_loss")));
    REQUIRE(losses.size() >= 100);
    CHECK(losses.front() > 0.5);
    CHECK(losses.back() < 0.3);
  }
}

TEST_CASE("end_to_end.training.exported_model_predicts_the_same") {
  const Workspace w;
  Run(w)
      .set("max_epochs", "8")
      .set("learning_rate", "3e-3")
      .set("export_path", "out")
      .set("save_top_k", "0")
      .succeed();
  CHECK(w.names("out") ==
        std::vector<std::string>{"config.json", "model.safetensors", "vocab.txt"});
  CHECK(w.text("out/vocab.txt") == w.text("data/vocab.txt"));
  const std::vector<std::string> labels = predicted_labels(w, "predict.json");
  CHECK(std::count(labels.begin(), labels.end(), "0") > 0);
  CHECK(std::count(labels.begin(), labels.end(), "1") > 0);

  Run again(w);
  again.set("pretrained_model_path", "out").set("max_steps", "0").set("max_epochs", "-1");
  again.set("output_save_path", "again.json");
  SECTION("as they are") {
    again.set("export_path", "again").succeed();
    CHECK(w.text("again/model.safetensors") == w.text("out/model.safetensors"));
    CHECK(w.text("again/config.json") == w.text("out/config.json"));
  }
  SECTION("also where the training file shows the labels in another order") {
    std::vector<std::string> lines = lines_of(w.text("data/train.json"));
    std::stable_partition(lines.begin(), lines.end(), [](const std::string& line) {
      return line.find("\"label\": \"1\"") != line.npos;
    });
    std::string text;
    for (const std::string& line : lines) text += line + "\n";
    w.put("data/train.json", text);
    again.succeed();
  }
  CHECK(w.text("again.json") == w.text("predict.json"));
}

TEST_CASE("end_to_end.training.validates_after_the_last_batch_of_epochs_of_any_length") {
  const Workspace w;
  Run(w).set("max_epochs", "1").succeed();
  const std::string batches = metrics(w).back().at("step");  // of the first epoch
  Run(w).set("max_epochs", "8").set("val_check_interval", batches).succeed();
  int last = 0, validations = 0, shorter = 0;
  for (const Row& row : metrics(w, "lightning_logs", 1)) {
    if (!row.contains("val_loss")) continue;
    const int step = std::stoi(row.at("step"));
    shorter += step - last < std::stoi(batches);
    last = step;
    ++validations;
  }
  CHECK(validations == 8);
  CHECK(shorter > 0);
}

TEST_CASE("end_to_end.training.keeps_the_best_checkpoints") {
  const Workspace w;
  Run run(w);
  run.set("every_n_train_steps", "3").set("save_top_k", "2").set("max_epochs", "2");
  run.set("filename", "{step}-{train_loss:.4f}").succeed();

  std::vector<std::pair<double, std::string>> candidates;
  for (const Row& row : metrics(w))
    if (row.contains("train_loss") && std::stoi(row.at("step")) % 3 == 0)
      candidates.emplace_back(std::stod(row.at("train_loss")), row.at("step"));
  REQUIRE(candidates.size() > 10);
  std::sort(candidates.begin(), candidates.end());
  std::vector<std::string> best;
  for (std::size_t i = 0; i < 2; ++i)
    best.push_back(
        fmt::format("step={}-train_loss={:.4f}.ckpt", candidates[i].second, candidates[i].first));
  std::sort(best.begin(), best.end());
  CHECK(w.names("checkpoints") == best);
}

TEST_CASE("end_to_end.training.takes_the_command_line_of_the_original_script") {
  const Workspace w;
  w.put("finetune.sh", R"(#!/bin/bash
MODEL_NAME=tiny
ROOT_DIR=logs/$MODEL_NAME
DATA_DIR=./data
OUTPUT_PATH=$ROOT_DIR/predict.json

DATA_ARGS="\
        --data_dir $DATA_DIR \
        --train_data train.json \
        --valid_data dev.json \
        --test_data test.json \
        --train_batchsize 4 \
        --valid_batchsize 32 \
        --max_length 64 \
        --texta_name sentence1 \
        --textb_name sentence2 \
        --label_name label \
        --id_name id \
        "

MODEL_ARGS="\
        --learning_rate 1e-5 \
        --weight_decay 0.1 \
        --warmup 0.01 \
        --num_labels 2 \
        "

MODEL_CHECKPOINT_ARGS="\
        --monitor val_acc \
        --save_top_k 3 \
        --mode max \
        --every_n_train_steps 20 \
        --save_weights_only True \
        --dirpath $ROOT_DIR/ckpt/ \
        --filename model-{epoch:02d}-{val_acc:.4f} \
        "

TRAINER_ARGS="\
        --max_epochs 2 \
        --gpus 1 \
        --num_workers 8 \
        --gradient_clip_val 1.0 \
        --strategy ddp \
        --val_check_interval 1.0 \
        --default_root_dir $ROOT_DIR/ \
        "

"$1" $DATA_ARGS $MODEL_ARGS $MODEL_CHECKPOINT_ARGS $TRAINER_ARGS \
        --output_save_path $OUTPUT_PATH
)");
  const std::string command = "cd " + w.root().string() +
                              " && OMP_WAIT_POLICY=passive bash finetune.sh " + tiny_packed +
                              " >out.txt 2>err.txt";
  CHECK(std::system(command.c_str()) == 0);
  CHECK(w.text("err.txt") == "");
  CHECK(w.text("out.txt").find("--num_workers 8 has no effect") != std::string::npos);
  const std::string settings = w.text("logs/tiny/lightning_logs/version_0/hparams.yaml");
  CHECK(settings.find("train_batchsize: 4\n") != settings.npos);
  CHECK(predicted_labels(w, "logs/tiny/predict.json").size() == 120);
  const auto checkpoints = w.names("logs/tiny/ckpt");
  CHECK(!checkpoints.empty());
  for (const std::string& name : checkpoints) CHECK(name.starts_with("model-epoch=01-val_acc=0."));
}
