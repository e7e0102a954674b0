/// \file  The command line: the original script's flags, checked one by one and against the policy.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/run_directory.hpp>
#include <ctrain/trainer/checkpoint_rules.hpp>
#include <ctrain/trainer/progress_counts.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// What the command line says, with the original script's defaults. What a policy also says is
/// optional here: without the flag, the policy's value counts.
struct Flags {
  // model
  std::string pretrained_model_path{};
  std::string vocab_path{};   // empty: vocab.txt of pretrained_model_path, or of data_dir
  std::string export_path{};  // folder for the trained model; empty: none
  std::string output_save_path = "./predict.json";
  std::optional<std::int64_t> num_labels{};

  // data
  std::string data_dir = "./data";
  std::string train_data = "train.json";
  std::string valid_data = "dev.json";
  std::string test_data = "test.json";
  std::string texta_name = "text";
  std::string textb_name = "sentence2";
  std::string label_name = "label";
  std::string id_name = "id";
  std::optional<std::int64_t> train_batchsize{};  // pairs of one rank in one micro-batch
  std::int64_t valid_batchsize = 32;
  std::optional<std::int64_t> max_length{};  // tokens of a pair, with [CLS] and [SEP]

  // optimizer
  std::optional<double> learning_rate{};
  std::optional<double> weight_decay{};
  std::optional<double> warmup{};             // share of all steps
  std::optional<double> gradient_clip_val{};  // 0: no clipping

  // checkpoints
  std::string monitor = "train_loss";
  Better mode = Better::smaller;
  std::string dirpath = "./log/";
  std::string filename = "model-{epoch:02d}-{train_loss:.4f}";
  std::int64_t save_top_k = 3;
  std::int64_t every_n_train_steps = 100;
  bool save_weights_only = true;
  std::string ckpt_path{};  // full checkpoint to resume from; empty: none

  // trainer
  std::optional<std::int64_t> max_epochs{};  // -1: no bound; see epoch_limit where not given
  std::int64_t max_steps = -1;               // -1: no bound
  ValidationInterval val_check_interval{};
  std::int64_t num_sanity_val_steps = 2;  // -1: all
  std::int64_t log_every_n_steps = 50;
  std::string default_root_dir = ".";
  std::optional<std::uint64_t> seed{};
  std::optional<std::string> offload_dir{};  // of the file in which states wait

  // fixed by the policy: only compared with it
  std::optional<std::int64_t> accumulate_grad_batches{};
  std::optional<std::string> precision{};
  std::optional<std::int64_t> gpus{};

  // without effect
  std::optional<std::string> strategy{};
  std::optional<std::string> model_type{};
  std::optional<std::int64_t> num_workers{};
};

/// A parsed command line. Where `help` is not empty, print it and stop; print each notice.
struct CommandLine {
  Flags flags{};
  std::vector<std::string> notices{};
  std::string help{};
};

/// What is compiled in, in the words of the flags.
struct FixedByPolicy {
  bool packed = false;            // bounds, instead of exact sizes
  std::int64_t sentences = 0;     // .batch.sentences
  std::int64_t length = 0;        // .batch.length
  std::int64_t accumulation = 1;  // .batch.accumulation
  std::int64_t labels = 2;        // .model.labels
  std::string precision = "32";   // .precision.compute: 32, bf16 or 16
  std::int64_t ranks = 1;
  bool to_disk = false;  // of .offload, anything
};

// reading and showing values ---------------------------------------------------------------------

namespace flag_values {

inline constexpr std::int64_t many = 1'000'000'000;

/// The whole of `text` as a number; `fix` says what is expected. Throws Error.
template <class Number>
Number number(const std::string& place, const std::string& text, const std::string& fix) {
  Number value{};
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (read.ec != std::errc{} || read.ptr != text.data() + text.size())
    throw Error(place, "'" + text + "' is not such a number", fix);
  return value;
}

/// A number in [low, high]. Throws Error.
template <class Number>
Number number_between(const std::string& place, const std::string& text, Number low, Number high) {
  const char* kind = std::is_integral_v<Number> ? "whole number" : "number";
  const std::string fix = fmt::format("Give a {} from {} to {}", kind, low, high);
  const Number value = number<Number>(place, text, fix);
  if (!(value >= low && value <= high)) throw Error(place, text + " is out of range", fix);
  return value;
}

/// The original script reads some whole numbers as floats, so that "3" and "3.0" are the same.
inline std::int64_t whole_float(const std::string& place, const std::string& text, std::int64_t low,
                                std::int64_t high) {
  const double value = number_between(place, text, double(low), double(high));
  if (value != std::floor(value))
    throw Error(place, text + " is no whole number",
                fmt::format("Give {} or {}", std::floor(value), std::ceil(value)));
  return std::int64_t(value);
}

/// Of several words. Throws Error.
inline std::size_t choice(const std::string& place, const std::string& text,
                          const std::vector<std::string>& words) {
  const auto found = std::find(words.begin(), words.end(), text);
  if (found == words.end())
    throw Error(place, "'" + text + "' is none of its values",
                fmt::format("Give one of {}", fmt::join(words, ", ")));
  return std::size_t(found - words.begin());
}

inline bool truth(const std::string& place, const std::string& text) {
  return choice(place, text, {"False", "false", "0", "True", "true", "1"}) >= 3;
}

inline Setting shown(const char* name, const std::string& value) {
  return {name, value, true};
}
inline Setting shown(const char* name, bool value) {
  return {name, value ? "true" : "false"};
}
inline Setting shown(const char* name, Better value) {
  return {name, value == Better::smaller ? "min" : "max", true};
}
inline Setting shown(const char* name, std::int64_t value) {
  return {name, std::to_string(value)};
}
inline Setting shown(const char* name, std::uint64_t value) {
  return {name, std::to_string(value)};
}
inline Setting shown(const char* name, double value) {
  return {name, fmt::format("{}", value)};
}
inline Setting shown(const char* name, const ValidationInterval& value) {
  if (value.batches > 0) return shown(name, value.batches);
  const bool whole = value.share == 1.0;
  return {name, whole ? "1.0" : fmt::format("{}", value.share)};
}
template <class Value> Setting shown(const char* name, const std::optional<Value>& value) {
  return value ? shown(name, *value) : Setting{name, "null"};
}

}  // namespace flag_values

// the flags --------------------------------------------------------------------------------------

/// One flag: how it is called, what it does to Flags, and how its value is shown.
struct FlagEntry {
  const char* group;
  const char* name;  // without the dashes
  std::string help;
  std::function<void(Flags&, const std::string& place, const std::string& text)> read;
  std::function<Setting(const Flags&)> show;
  const char* unset = "";            // shown as the default where no value is given
  const char* other_name = nullptr;  // means the same
  std::string (*notice)(const std::string& text) = nullptr;  // printed where the flag is given
};

namespace flag_values {

/// A flag whose text becomes a member through `convert(place, text)`.
template <class Member, class Convert>
FlagEntry entry(const char* group, const char* name, Member Flags::*member, const std::string& help,
                Convert convert) {
  return {
      .group = group,
      .name = name,
      .help = help,
      .read = [member, convert](Flags& flags, const std::string& place,
                                const std::string& text) { flags.*member = convert(place, text); },
      .show = [member, name](const Flags& flags) { return shown(name, flags.*member); }};
}

template <class Member>
FlagEntry text(const char* group, const char* name, Member Flags::*member,
               const std::string& help) {
  return entry(group, name, member, help,
               [](const std::string&, const std::string& value) { return value; });
}

template <class Member, class Number>
FlagEntry between(const char* group, const char* name, Member Flags::*member, Number low,
                  Number high, const std::string& help) {
  return entry(group, name, member, help,
               [low, high](const std::string& place, const std::string& t) {
                 return number_between<Number>(place, t, low, high);
               });
}

inline FlagEntry float_between(const char* group, const char* name, std::int64_t Flags::*member,
                               std::int64_t low, std::int64_t high, const std::string& help) {
  return entry(group, name, member, help,
               [low, high](const std::string& place, const std::string& t) {
                 return whole_float(place, t, low, high);
               });
}

template <class Member>
FlagEntry one_of(const char* group, const char* name, Member Flags::*member,
                 const std::string& help, const std::vector<std::string>& words) {
  return entry(group, name, member, help, [words](const std::string& place, const std::string& t) {
    return words[choice(place, t, words)];
  });
}

inline FlagEntry by_policy(FlagEntry entry) {
  entry.unset = "policy";
  return entry;
}

inline FlagEntry noticed(FlagEntry entry, std::string (*notice)(const std::string&)) {
  entry.notice = notice;
  return entry;
}

inline FlagEntry also_called(FlagEntry entry, const char* other_name) {
  entry.other_name = other_name;
  return entry;
}

inline const std::vector<std::string>& strategies() {
  static const std::vector<std::string> names{"dp",
                                              "ddp",
                                              "ddp_find_unused_parameters_false",
                                              "ddp2",
                                              "ddp_spawn",
                                              "ddp_sharded",
                                              "fsdp",
                                              "ddp_fully_sharded",
                                              "deepspeed",
                                              "deepspeed_stage_1",
                                              "deepspeed_stage_2",
                                              "deepspeed_stage_2_offload",
                                              "deepspeed_stage_3",
                                              "deepspeed_stage_3_offload",
                                              "deepspeed_stage_3_offload_nvme"};
  return names;
}

inline std::vector<FlagEntry> model_entries() {
  const char* group = "Model";
  return {
      text(group, "pretrained_model_path", &Flags::pretrained_model_path,
           "Folder of config.json, vocab.txt and weights; empty: train new weights"),
      text(group, "vocab_path", &Flags::vocab_path,
           "Vocabulary; empty: vocab.txt of pretrained_model_path, or of data_dir"),
      text(group, "export_path", &Flags::export_path,
           "Folder to save the trained model to, as Hugging Face's; empty: none"),
      text(group, "output_save_path", &Flags::output_save_path,
           "File of predictions for test_data"),
      by_policy(between<std::optional<std::int64_t>, std::int64_t>(
          group, "num_labels", &Flags::num_labels, 2, many, "Classes of the head")),
      noticed(text(group, "model_type", &Flags::model_type, "Accepted, without effect"),
              [](const std::string& value) {
                return "--model_type " + value + " has no effect: the policy is the model";
              }),
  };
}

inline std::vector<FlagEntry> data_entries() {
  const char* group = "Data";
  return {
      text(group, "data_dir", &Flags::data_dir, "Folder of the data files"),
      text(group, "train_data", &Flags::train_data, "Training pairs, one JSON object a line"),
      text(group, "valid_data", &Flags::valid_data, "Validation pairs"),
      text(group, "test_data", &Flags::test_data, "Pairs to predict"),
      text(group, "texta_name", &Flags::texta_name, "Field of the first text"),
      text(group, "textb_name", &Flags::textb_name, "Field of the second text"),
      text(group, "label_name", &Flags::label_name, "Field of the label"),
      text(group, "id_name", &Flags::id_name, "Field of the id"),
      by_policy(between<std::optional<std::int64_t>, std::int64_t>(
          group, "train_batchsize", &Flags::train_batchsize, 1, many,
          "Pairs of one rank in one micro-batch")),
      between<std::int64_t, std::int64_t>(group, "valid_batchsize", &Flags::valid_batchsize, 1,
                                          many, "Pairs in one batch of validation and prediction"),
      by_policy(between<std::optional<std::int64_t>, std::int64_t>(
          group, "max_length", &Flags::max_length, 4, many, "Longest pair, in tokens")),
      noticed(between<std::optional<std::int64_t>, std::int64_t>(
                  group, "num_workers", &Flags::num_workers, 0, many, "Accepted, without effect"),
              [](const std::string& value) {
                return "--num_workers " + value +
                       " has no effect: the data is encoded once, in memory";
              }),
  };
}

inline std::vector<FlagEntry> optimizer_entries() {
  const char* group = "Optimizer";
  using Real = std::optional<double>;
  return {
      by_policy(between<Real, double>(group, "learning_rate", &Flags::learning_rate, 0, 1,
                                      "Rate after the warm-up")),
      by_policy(between<Real, double>(group, "weight_decay", &Flags::weight_decay, 0, 1,
                                      "Decay of the weights that decay")),
      by_policy(between<Real, double>(group, "warmup", &Flags::warmup, 0, 1,
                                      "Share of all steps in which the rate rises from 0")),
      by_policy(between<Real, double>(group, "gradient_clip_val", &Flags::gradient_clip_val, 0, 1e9,
                                      "Bound of the gradient's norm; 0: none")),
  };
}

inline std::vector<FlagEntry> checkpoint_entries() {
  const char* group = "Checkpoints";
  return {
      text(group, "monitor", &Flags::monitor, "Metric that decides which checkpoints are best"),
      entry(group, "mode", &Flags::mode, "Which value of it is better: min or max",
            [](const std::string& place, const std::string& value) {
              return choice(place, value, {"min", "max"}) == 0 ? Better::smaller : Better::larger;
            }),
      text(group, "dirpath", &Flags::dirpath, "Folder of the checkpoints"),
      entry(group, "filename", &Flags::filename, "Their names",
            [](const std::string&, const std::string& value) {
              return CheckpointName(value), value;
            }),
      float_between(group, "save_top_k", &Flags::save_top_k, -1, many,
                    "Best ones to keep; -1: all, 0: none"),
      float_between(group, "every_n_train_steps", &Flags::every_n_train_steps, 0, many,
                    "Steps between two; 0: after each epoch or validation"),
      // The original script takes every text, even "False", for True.
      entry(group, "save_weights_only", &Flags::save_weights_only,
            "True: weights only; False: all that a resumed run needs (the original script takes "
            "False for True)",
            truth),
      also_called(text(group, "ckpt_path", &Flags::ckpt_path, "Full checkpoint to resume from"),
                  "resume_from_checkpoint"),
  };
}

inline std::vector<FlagEntry> trainer_entries() {
  const char* group = "Trainer";
  using Whole = std::optional<std::int64_t>;
  FlagEntry max_epochs = between<Whole, std::int64_t>(group, "max_epochs", &Flags::max_epochs, -1,
                                                      1'000'000, "Epochs to train; -1: no bound");
  max_epochs.unset = "1000, or no bound where --max_steps is given";
  return {
      max_epochs,
      between<std::int64_t, std::int64_t>(group, "max_steps", &Flags::max_steps, -1, many * many,
                                          "Optimizer steps to train; -1: no bound"),
      entry(group, "val_check_interval", &Flags::val_check_interval,
            "Validate after this share of an epoch (0.25, 1.0) or after this many batches (1000)",
            [](const std::string& place, const std::string& value) {
              return parse_validation_interval(value, place);
            }),
      between<std::int64_t, std::int64_t>(group, "num_sanity_val_steps",
                                          &Flags::num_sanity_val_steps, -1, many,
                                          "Validation batches to try at start; -1: all"),
      between<std::int64_t, std::int64_t>(group, "log_every_n_steps", &Flags::log_every_n_steps, 1,
                                          many, "Steps between two rows of the logs"),
      text(group, "default_root_dir", &Flags::default_root_dir, "Folder of lightning_logs"),
      by_policy(between<std::optional<std::uint64_t>, std::uint64_t>(
          group, "seed", &Flags::seed, 0, std::numeric_limits<std::uint64_t>::max(),
          "Start of every random number")),
      text(group, "offload_dir", &Flags::offload_dir,
           "Folder of the file in which a policy that offloads to disk keeps states (default: .)"),
      by_policy(between<Whole, std::int64_t>(group, "accumulate_grad_batches",
                                             &Flags::accumulate_grad_batches, 1, many,
                                             "Micro-batches in one step")),
      by_policy(
          one_of(group, "precision", &Flags::precision, "32, bf16 or 16", {"32", "bf16", "16"})),
      by_policy(between<Whole, std::int64_t>(group, "gpus", &Flags::gpus, 0, many, "Ranks")),
      noticed(one_of(group, "strategy", &Flags::strategy, "Accepted, without effect", strategies()),
              [](const std::string& value) {
                return "--strategy " + value + " has no effect: the policy says how ranks share";
              }),
  };
}

}  // namespace flag_values

/// All flags, in the order of --help.
inline const std::vector<FlagEntry>& flag_entries() {
  static const std::vector<FlagEntry> entries = [] {
    std::vector<FlagEntry> all;
    for (auto* group :
         {flag_values::model_entries, flag_values::data_entries, flag_values::optimizer_entries,
          flag_values::checkpoint_entries, flag_values::trainer_entries})
      for (FlagEntry& entry : group()) all.push_back(std::move(entry));
    return all;
  }();
  return entries;
}

/// Every flag with its value, for hparams.yaml. Fill in the policy's values first.
inline std::vector<Setting> settings(const Flags& flags) {
  std::vector<Setting> all;
  for (const FlagEntry& entry : flag_entries()) all.push_back(entry.show(flags));
  return all;
}

/// Least number of insertions, deletions and replacements that make `a` into `b` (Levenshtein).
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

// the command line -------------------------------------------------------------------------------

namespace flag_values {

/// The name of the known flag that is most like `name`; empty where none is.
inline std::string nearest_flag(std::string_view name) {
  std::size_t least = std::max<std::size_t>(2, name.size() / 3) + 1;
  std::string nearest;
  for (const FlagEntry& entry : flag_entries())
    for (const char* known : {entry.name, entry.other_name})
      if (known != nullptr && edit_distance(name, known) < least) {
        least = edit_distance(name, known);
        nearest = known;
      }
  return nearest;
}

/// Throws the Error for an argument that belongs to no flag.
[[noreturn]] inline void refuse_argument(const std::string& argument) {
  const std::string name = argument.substr(0, argument.find('='));
  if (!name.starts_with('-'))
    throw Error("argument '" + argument + "'", "it belongs to no flag",
                "Write --flag VALUE, with quotes around a value with spaces");
  const std::string nearest = nearest_flag(name.substr(std::min<std::size_t>(2, name.size())));
  throw Error("flag " + name, "there is no such flag",
              nearest.empty() ? "--help lists all flags" : "Did you mean --" + nearest + "?");
}

inline void add_option(CLI::App& app, const FlagEntry& entry, CommandLine& line) {
  const std::string place = std::string("flag --") + entry.name;
  const auto read = [&entry, &line, place](const std::string& text) {
    if (text.starts_with("--")) throw Error(place, "it has no value", "Write it before " + text);
    entry.read(line.flags, place, text);
    if (entry.notice != nullptr) line.notices.push_back(entry.notice(text));
  };
  std::string names = std::string("--") + entry.name;
  if (entry.other_name != nullptr) names += std::string(",--") + entry.other_name;
  const std::string value = entry.show(Flags{}).value;
  const std::string unset = value == "null" ? entry.unset : value;
  app.add_option_function<std::string>(names, read, entry.help)
      ->group(entry.group)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->option_text(unset.empty() ? "" : "[" + unset + "]");
}

/// What no single flag can know.
inline void require_an_end(const Flags& flags) {
  if (flags.max_epochs == -1 && flags.max_steps == -1)
    throw Error("flag --max_epochs",
                "-1 without --max_steps never ends, and the learning rate falls "
                "towards an end",
                "Give --max_steps too, or a number of epochs");
}

}  // namespace flag_values

/// Parses a command line. A flag given twice counts as its last. Throws Error with the flag, its
/// value and what to write instead; a program prints it and exits with 1.
inline CommandLine parse_flags(int argc, const char* const* argv) {
  CommandLine line;
  CLI::App app("Fine-tunes a pretrained encoder on pairs of sentences.");
  app.allow_extras();
  for (const FlagEntry& entry : flag_entries()) flag_values::add_option(app, entry, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return {.help = app.help()};
  } catch (const CLI::ParseError& error) {
    throw Error("command line", error.what(), "--help lists all flags and their values");
  }
  if (!app.remaining().empty()) flag_values::refuse_argument(app.remaining().front());
  flag_values::require_an_end(line.flags);
  return line;
}

/// The checkpoint rules that the flags ask for. Throws Error where they contradict themselves.
inline CheckpointRules checkpoint_rules(const Flags& flags) {
  return CheckpointRules(
      {.monitor = flags.monitor,
       .better = flags.mode,
       .top_k = flags.save_top_k,
       .every_n_train_steps = flags.every_n_train_steps,
       .save_on_train_epoch_end = saves_on_train_epoch_end(flags.val_check_interval),
       .filename = flags.filename,
       .directory = flags.dirpath});
}

// flags and policy -------------------------------------------------------------------------------

namespace flag_values {

/// Compares flags with what is compiled in, and remembers every difference as a sentence.
class PolicyCheck {
 public:
  /// A flag that must equal the policy's `field`, or, for a bound, not exceed it.
  void size(const char* flag, const std::optional<std::int64_t>& given, std::int64_t fixed,
            bool is_bound, const char* unit, const std::string& field) {
    if (!given || *given == fixed || (is_bound && *given < fixed)) return;
    add(flag,
        fmt::format("{} {}, but the policy holds {}{} ({})", *given, unit,
                    is_bound ? "at most " : "", fixed, field),
        fmt::format("Set .{} = {} in the policy and recompile, or pass {}", field, *given, fixed));
  }

  void precision(const std::optional<std::string>& given, const std::string& fixed) {
    if (!given || *given == fixed) return;
    const std::string word = *given == "32"   ? "fp32"
                             : *given == "16" ? "fp16 with a .precision.loss_scale"
                                              : *given;
    add("precision", *given + ", but the policy computes in " + fixed + " (precision.compute)",
        "Set .precision.compute = Compute::" + word + " in the policy and recompile, or pass " +
            fixed);
  }

  /// A run on a host has one rank and no GPU.
  void ranks(const std::optional<std::int64_t>& given, std::int64_t fixed) {
    if (!given || *given == fixed || (*given == 0 && fixed == 1)) return;
    add("gpus", fmt::format("{} ranks, but this program runs {}", *given, fixed),
        fmt::format("Start it with {} ranks and a policy for them, or pass {}", *given, fixed));
  }

  void disk(const std::optional<std::string>& given, bool to_disk) {
    if (!given || to_disk) return;
    add("offload_dir", *given + ", but the policy keeps nothing on a disk (offload)",
        "Set .offload.optimizer = OffloadTo::disk in the policy and recompile, or leave the flag "
        "out");
  }

  /// Throws all differences as one Error, a line each.
  void finish() const {
    if (differences_.empty()) return;
    std::string fix = differences_[0].fix;
    for (std::size_t i = 1; i < differences_.size(); ++i)
      fix += std::string("\n") + Error(differences_[i]).what();
    throw Error(differences_[0].place, differences_[0].what, fix);
  }

 private:
  struct Difference {
    std::string place, what, fix;
    explicit operator Error() const { return {place, what, fix}; }
  };

  void add(const char* flag, const std::string& what, const std::string& fix) {
    differences_.push_back({std::string("flag --") + flag, what, fix});
  }

  std::vector<Difference> differences_;
};

}  // namespace flag_values

/// Throws one Error that names every flag which contradicts the policy, both values, and the field
/// to set. A padded batch has exactly its shape; of a packed one the policy knows only bounds.
inline void check_against_policy(const Flags& flags, const FixedByPolicy& fixed) {
  flag_values::PolicyCheck check;
  check.size("train_batchsize", flags.train_batchsize, fixed.sentences, fixed.packed, "pairs",
             "batch.sentences");
  check.size("max_length", flags.max_length, fixed.length, fixed.packed, "tokens", "batch.length");
  check.size("accumulate_grad_batches", flags.accumulate_grad_batches, fixed.accumulation, false,
             "micro-batches", "batch.accumulation");
  check.size("num_labels", flags.num_labels, fixed.labels, false, "labels", "model.labels");
  check.precision(flags.precision, fixed.precision);
  check.ranks(flags.gpus, fixed.ranks);
  check.disk(flags.offload_dir, fixed.to_disk);
  check.finish();
}

}  // namespace ctrain
