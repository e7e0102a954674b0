#include <ctrain/io/flags.hpp>

#include <catch2/catch.hpp>

namespace {

using namespace ctrain;
using Catch::Contains;
using Catch::StartsWith;

CommandLine parsed(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "finetune");
  return parse_flags(int(arguments.size()), arguments.data());
}

std::string complaint(const std::vector<const char*>& arguments) {
  try {
    parsed(arguments);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("io.flags.defaults_are_the_original_scripts") {
  const Flags flags = parsed({}).flags;
  CHECK(flags.data_dir == "./data");
  CHECK(flags.valid_data == "dev.json");
  CHECK(flags.texta_name == "text");
  CHECK(flags.textb_name == "sentence2");
  CHECK(flags.valid_batchsize == 32);
  CHECK(flags.monitor == "train_loss");
  CHECK(flags.mode == Better::smaller);
  CHECK(flags.dirpath == "./log/");
  CHECK(flags.filename == "model-{epoch:02d}-{train_loss:.4f}");
  CHECK(flags.save_top_k == 3);
  CHECK(flags.every_n_train_steps == 100);
  CHECK(flags.save_weights_only);
  CHECK(flags.val_check_interval == ValidationInterval{.share = 1.0});
  CHECK(flags.output_save_path == "./predict.json");
  CHECK(flags.num_sanity_val_steps == 2);
  CHECK(flags.log_every_n_steps == 50);
  CHECK(flags.max_steps == -1);
  CHECK_FALSE(flags.train_batchsize);
  CHECK_FALSE(flags.learning_rate);
  CHECK_FALSE(flags.max_epochs);
}

TEST_CASE("io.flags.the_articles_command_line_is_understood") {
  const CommandLine line = parsed({"--data_dir",
                                   "./afqmc",
                                   "--train_batchsize",
                                   "4",
                                   "--valid_batchsize=32",
                                   "--max_length",
                                   "512",
                                   "--texta_name",
                                   "sentence1",
                                   "--learning_rate",
                                   "1e-5",
                                   "--weight_decay",
                                   "0.1",
                                   "--warmup",
                                   "0.01",
                                   "--num_labels",
                                   "2",
                                   "--monitor",
                                   "val_acc",
                                   "--save_top_k",
                                   "3",
                                   "--mode",
                                   "max",
                                   "--every_n_train_steps",
                                   "200",
                                   "--save_weights_only",
                                   "True",
                                   "--dirpath",
                                   "./ckpt",
                                   "--filename",
                                   "model-{epoch:02d}-{val_acc:.4f}",
                                   "--max_epochs",
                                   "5",
                                   "--gpus",
                                   "1",
                                   "--gradient_clip_val",
                                   "1.0",
                                   "--val_check_interval",
                                   "1000",
                                   "--default_root_dir",
                                   "./root",
                                   "--num_workers",
                                   "8",
                                   "--strategy",
                                   "deepspeed_stage_1",
                                   "--seed",
                                   "18446744073709551615",
                                   "--resume_from_checkpoint",
                                   "last.ckpt"});
  const Flags& flags = line.flags;
  CHECK(flags.train_batchsize == 4);
  CHECK(flags.max_length == 512);
  CHECK(flags.learning_rate == 1e-5);
  CHECK(flags.mode == Better::larger);
  CHECK(flags.val_check_interval == ValidationInterval{.batches = 1000});
  CHECK(flags.max_epochs == 5);
  CHECK(flags.seed == 18446744073709551615u);
  CHECK(flags.ckpt_path == "last.ckpt");
  REQUIRE(line.notices.size() == 2);
  CHECK_THAT(line.notices[0] + line.notices[1], Contains("num_workers") && Contains("strategy"));
  CHECK(checkpoint_rules(flags).due(CheckpointMoment::train_batch_end, 200));
}

TEST_CASE("io.flags.odd_types_mean_what_they_say") {
  CHECK(parsed({"--save_top_k", "3.0"}).flags.save_top_k == 3);
  CHECK(parsed({"--save_top_k", "-1"}).flags.save_top_k == -1);
  CHECK(parsed({"--every_n_train_steps", "200.0"}).flags.every_n_train_steps == 200);
  CHECK_FALSE(parsed({"--save_weights_only", "False"}).flags.save_weights_only);
  CHECK_FALSE(parsed({"--save_weights_only", "0"}).flags.save_weights_only);
  CHECK(parsed({"--save_weights_only", "1"}).flags.save_weights_only);
  CHECK(parsed({"--max_epochs", "-1", "--max_steps", "9"}).flags.max_epochs == -1);
  CHECK(parsed({"--warmup", "0.5", "--warmup", "0.25"}).flags.warmup == 0.25);
  CHECK(parsed({"--id_name", ""}).flags.id_name.empty());
  CHECK(parsed({"--data_dir", "a b"}).flags.data_dir == "a b");
  CHECK(complaint({"--save_top_k", "2.5"}) ==
        "flag --save_top_k: 2.5 is no whole number. Give 2 or 3");
  CHECK_THAT(complaint({"--max_epochs", "-1"}), StartsWith("flag --max_epochs: "));
}

TEST_CASE("io.flags.values_out_of_range_name_the_flag_and_the_range") {
  CHECK(complaint({"--warmup", "1.5"}) ==
        "flag --warmup: 1.5 is out of range. Give a number from 0 to 1");
  const std::pair<const char*, const char*> wrong[] = {
      {"--train_batchsize", "0"},
      {"--train_batchsize", "4.0"},
      {"--train_batchsize", "99999999999999999999"},
      {"--valid_batchsize", "-1"},
      {"--max_length", "3"},
      {"--learning_rate", "nan"},
      {"--learning_rate", "inf"},
      {"--learning_rate", "1e-5x"},
      {"--weight_decay", "-0.1"},
      {"--num_labels", "1"},
      {"--gradient_clip_val", "-1"},
      {"--save_top_k", "-2"},
      {"--save_top_k", "1e300"},
      {"--every_n_train_steps", "-5"},
      {"--save_weights_only", "yes"},
      {"--mode", "best"},
      {"--filename", "{epoch"},
      {"--max_epochs", "-2"},
      {"--max_steps", "-2"},
      {"--val_check_interval", "0"},
      {"--log_every_n_steps", "0"},
      {"--seed", "-1"},
      {"--gpus", "0,1"},
      {"--precision", "64"},
      {"--strategy", "zero"},
      {"--accumulate_grad_batches", ""}};
  for (const auto& [flag, value] : wrong)
    CHECK_THAT(complaint({flag, value}), StartsWith(std::string("flag ") + flag + ": "));
}

TEST_CASE("io.flags.unknown_flags_suggest_the_nearest") {
  CHECK(complaint({"--train_batch_size", "4"}) ==
        "flag --train_batch_size: there is no such flag. Did you mean --train_batchsize?");
  CHECK_THAT(complaint({"--max-epochs=5"}), Contains("--max_epochs?"));
  CHECK_THAT(complaint({"--resume_from_checkpont", "x"}), Contains("--resume_from_checkpoint?"));
  CHECK_THAT(complaint({"--quux", "4"}), Contains("--help"));
  CHECK_THAT(complaint({"-x"}), Contains("no such flag"));
  CHECK_THAT(complaint({"stray"}), StartsWith("argument 'stray': "));
  CHECK_THAT(complaint({"--data_dir", "a", "b"}), StartsWith("argument 'b': "));
}

TEST_CASE("io.flags.a_flag_without_its_value_is_an_error") {
  CHECK(complaint({"--monitor", "--mode", "max"}) ==
        "flag --monitor: it has no value. Write it before --mode");
  CHECK_THAT(complaint({"--monitor"}), Contains("--monitor") && Contains("--help"));
}

TEST_CASE("io.flags.help_lists_every_flag_with_its_default") {
  const std::string help = parsed({"--help"}).help;
  for (const FlagEntry& entry : flag_entries()) CHECK_THAT(help, Contains(entry.name));
  for (const char* part : {"Checkpoints", "Trainer", "[./data]", "[policy]", "[1.0]",
                           "[train_loss]", "resume_from_checkpoint"})
    CHECK_THAT(help, Contains(part));
  CHECK(parsed({}).help.empty());
}

TEST_CASE("io.flags.settings_show_what_was_given") {
  const std::vector<Setting> all =
      settings(parsed({"--warmup", "0.25", "--mode", "max", "--precision", "bf16"}).flags);
  const auto has = [&](const Setting& setting) {
    return std::find(all.begin(), all.end(), setting) != all.end();
  };
  CHECK(has({"warmup", "0.25", false}));
  CHECK(has({"mode", "max", true}));
  CHECK(has({"precision", "bf16", true}));
  CHECK(has({"data_dir", "./data", true}));
  CHECK(has({"val_check_interval", "1.0", false}));
  CHECK(has({"save_weights_only", "true", false}));
  CHECK(has({"train_batchsize", "null", false}));
}

const FixedByPolicy padded{.sentences = 4, .length = 128, .accumulation = 1, .labels = 2};
const FixedByPolicy packed{
    .packed = true, .sentences = 16, .length = 128, .accumulation = 1, .labels = 2};

std::string contradiction(const std::vector<const char*>& arguments, const FixedByPolicy& fixed) {
  try {
    check_against_policy(parsed(arguments).flags, fixed);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("io.flags.a_contradicted_policy_is_named_with_its_field") {
  CHECK(contradiction({"--train_batchsize", "32"}, packed) ==
        "flag --train_batchsize: 32 pairs, but the policy holds at most 16 (batch.sentences). Set "
        ".batch.sentences = 32 in the policy and recompile, or pass 16");
  CHECK(contradiction({"--train_batchsize", "2"}, padded) ==
        "flag --train_batchsize: 2 pairs, but the policy holds 4 (batch.sentences). Set "
        ".batch.sentences = 2 in the policy and recompile, or pass 4");
  CHECK_THAT(contradiction({"--max_length", "512"}, padded), Contains(".batch.length = 512"));
  CHECK_THAT(contradiction({"--num_labels", "3"}, padded), Contains(".model.labels = 3"));
  CHECK_THAT(contradiction({"--accumulate_grad_batches", "2"}, padded),
             Contains(".batch.accumulation = 2"));
  CHECK_THAT(contradiction({"--precision", "bf16"}, padded), Contains("Compute::bf16"));
  CHECK_THAT(contradiction({"--precision", "16"}, padded),
             Contains("Compute::fp16 with a .precision.loss_scale"));
  CHECK_THAT(contradiction({"--gpus", "2"}, padded), Contains("2 ranks"));
}

TEST_CASE("io.flags.bounds_and_silence_fit_every_policy") {
  CHECK(contradiction({"--train_batchsize", "2", "--max_length", "64"}, packed).empty());
  CHECK(contradiction({"--train_batchsize", "4", "--max_length", "128", "--gpus", "0",
                       "--precision", "32", "--valid_batchsize", "99"},
                      padded)
            .empty());
  CHECK(contradiction({}, padded).empty());
}

TEST_CASE("io.flags.several_contradictions_are_reported_together") {
  const std::string text =
      contradiction({"--train_batchsize", "2", "--max_length", "64", "--gpus", "2"}, padded);
  CHECK(std::count(text.begin(), text.end(), '\n') == 2);
  CHECK_THAT(text, Contains("--train_batchsize: 2") && Contains("\nflag --max_length: 64") &&
                       Contains("\nflag --gpus: 2"));
}

}  // namespace
