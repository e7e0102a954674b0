/// \file  The main job: fine-tune a policy's model on labelled text pairs, from flags to predictions.   floor 7: io
#pragma once

#include <ctrain/backend/comm/agreement.hpp>
#include <ctrain/backend/comm/single.hpp>
#include <ctrain/backend/default.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/io/checkpoint.hpp>
#include <ctrain/io/dataset.hpp>
#include <ctrain/io/flags.hpp>
#include <ctrain/io/hugging_face.hpp>
#include <ctrain/io/jsonl.hpp>
#include <ctrain/io/model_config.hpp>
#include <ctrain/io/run_log.hpp>
#include <ctrain/io/sampler.hpp>
#include <ctrain/io/together.hpp>
#include <ctrain/io/wordpiece.hpp>
#include <ctrain/model/cost.hpp>
#include <ctrain/trainer/learning_rate.hpp>
#include <ctrain/trainer/metrics.hpp>
#include <ctrain/trainer/progress_counts.hpp>
#include <ctrain/trainer/streamed_trainer.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

namespace ctrain {

// flags and policy -------------------------------------------------------------------------------

/// What is compiled into P, in the words of the flags.
constexpr Batch batch_of_flags(const Flags& flags, Batch batch) {
  if (flags.train_batchsize) batch.sentences = int(*flags.train_batchsize);
  if (flags.max_length) batch.length = int(*flags.max_length);
  return batch;
}

inline FixedByPolicy fixed_by(const Policy& p) {
  return {.packed = p.batch.packed(),
          .sentences = p.batch.sentence_bound(),
          .length = p.batch.length,
          .accumulation = p.batch.accumulation,
          .labels = p.model.labels,
          .precision = p.precision.compute == Compute::bf16   ? "bf16"
                       : p.precision.compute == Compute::fp16 ? "16"
                                                              : "32",
          .ranks = p.parallel.ranks(),
          .to_disk = p.offload.to_disk()};
}

/// The flags with the policy's value wherever none was given.
inline Flags with_defaults(Flags flags, const Policy& p) {
  const FixedByPolicy fixed = fixed_by(p);
  const auto fill = [](auto& field, auto value) {
    if (!field) field = value;
  };
  fill(flags.train_batchsize, fixed.sentences);
  fill(flags.max_length, fixed.length);
  fill(flags.num_labels, fixed.labels);
  fill(flags.accumulate_grad_batches, fixed.accumulation);
  fill(flags.precision, fixed.precision);
  fill(flags.gpus, fixed.ranks > 1 ? fixed.ranks : std::int64_t{0});
  fill(flags.learning_rate, as_written(p.optimizer.learning_rate));
  fill(flags.weight_decay, as_written(p.optimizer.weight_decay));
  fill(flags.warmup, as_written(p.schedule.warmup));
  fill(flags.gradient_clip_val, as_written(p.optimizer.clip));
  fill(flags.seed, p.seed);
  fill(flags.offload_dir, std::string("."));
  return flags;
}

// data -------------------------------------------------------------------------------------------

/// The three data sets of a run, encoded.
struct RunData {
  std::string vocabulary;  // its file
  LabelMap labels;
  Dataset train, validation, test;
};

inline std::string vocabulary_path(const Flags& flags) {
  if (!flags.vocab_path.empty()) return flags.vocab_path;
  const std::string& folder =
      flags.pretrained_model_path.empty() ? flags.data_dir : flags.pretrained_model_path;
  return (std::filesystem::path(folder) / "vocab.txt").string();
}

/// Names of the classes for config.json: the raw labels.
inline std::vector<std::string> label_names(const LabelMap& labels) {
  std::vector<std::string> names;
  for (const RawLabel& raw : labels.labels())
    names.push_back(std::holds_alternative<std::string>(raw) ? std::get<std::string>(raw)
                                                             : to_json(raw));
  return names;
}

/// Classes are numbered as the training file shows them first, as in the original script; but
/// weights that were trained on the same labels keep their order.
inline LabelMap label_map(const ExampleFile& train, const Flags& flags, int classes) {
  LabelMap labels(train, classes);
  if (flags.pretrained_model_path.empty()) return labels;
  const std::filesystem::path config =
      std::filesystem::path(flags.pretrained_model_path) / "config.json";
  const std::vector<std::string> names = label_names(labels), trained = read_config(config).labels;
  if (!std::ranges::is_permutation(names, trained)) return labels;
  std::vector<RawLabel> ordered;
  for (const std::string& name : trained)
    ordered.push_back(labels.raw(int(std::ranges::find(names, name) - names.begin())));
  return {ordered, config.string()};
}

/// Reads and encodes train, validation and test files. Throws Error for the first fault.
inline RunData read_data(const Flags& flags, const ModelShape& model) {
  const std::filesystem::path folder = flags.data_dir;
  const FieldNames names{flags.texta_name, flags.textb_name, flags.label_name, flags.id_name};
  const auto read = [&](const std::string& file, Labels labels) {
    return read_examples((folder / file).string(), names, labels);
  };
  const std::string vocabulary = vocabulary_path(flags);
  const WordPiece tokenizer(vocabulary, model.vocabulary);
  const ExampleFile train = read(flags.train_data, Labels::required);
  const ExampleFile validation = read(flags.valid_data, Labels::required);
  const ExampleFile test = read(flags.test_data, Labels::optional);
  const LabelMap labels = label_map(train, flags, model.labels);
  const int length = int(*flags.max_length);
  return {vocabulary, labels, encode_examples(train, tokenizer, &labels, length),
          encode_examples(validation, tokenizer, &labels, length),
          encode_examples(test, tokenizer, nullptr, length)};
}

// outputs ----------------------------------------------------------------------------------------

/// Creates the folder that a flag names where there is none. Throws Error unless this user may
/// write in it.
inline void require_folder(const std::string& flag, const std::filesystem::path& folder) {
  if (folder.empty()) throw Error("flag --" + flag, "it is empty", "Name a folder");
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (!failure && ::access(folder.c_str(), W_OK) != 0)
    failure = std::error_code(errno, std::generic_category());
  if (failure)
    throw Error("flag --" + flag,
                "cannot write into " + folder.string() + " (" + failure.message() + ")",
                "Make it a folder that this user may write into, or name another one");
}

// the run ----------------------------------------------------------------------------------------

/// What --monitor may name.
inline constexpr std::string_view metric_names[] = {"train_loss", "train_acc", "val_loss",
                                                    "val_acc", "val_f1"};

/// One rank's part of a run of P's trainer: everything between a command line and predict.json.
/// Rank 0 prints, logs and decides where files are concerned; tensors are written by all.
template <HasPolicy P, Backend B, Communicator C> class FineTuning {
  static constexpr const auto& policy = P::policy;
  static constexpr bool streams = P::policy.offload.any();
  using OwnTrainer = std::conditional_t<streams, StreamedTrainer<P, B>, Trainer<P, B, C>>;
  static constexpr bool runs_ahead = requires { requires OwnTrainer::runs_ahead; };
  /// Micro-batches of an optimizer step, of all ranks.
  static constexpr std::int64_t step_batches =
      std::int64_t{P::policy.parallel.data} * P::policy.batch.accumulation;

 public:
  /// Reads everything that can be wrong before anything is written, without a word to other ranks.
  /// Throws Error.
  FineTuning(const Flags& given, C& communicator)
      : communicator_(communicator),
        flags_(with_defaults(given, policy)),
        data_(read_data(flags_, policy.model)),
        shape_(batch_of_flags(given, policy.batch)),
        rules_(checkpoint_rules(flags_)),
        sampler_(data_.train, shape_, *flags_.seed),
        trainer_(make_trainer(communicator, flags_)) {
    load_weights_or_draw();
    if (!flags_.ckpt_path.empty()) resume();
    schedule_ = learning_rate();
    require_known_metric();
    validation_period(flags_.val_check_interval, sampler_.batches(0));
    if (leads()) prepare_outputs();
  }

  /// Trains, validates, predicts, on all ranks together.
  void run() {
    agree(communicator_, {{"the schedule", hash_of_schedule()},
                          {"the policy", hash_of_bytes(policy)},
                          {"the data", hash_of_data()},
                          {"the number of steps done", std::uint64_t(step_)}});
    together::run(communicator_, [&] {
      if (leads()) log_.emplace(flags_.default_root_dir, settings(flags_));
    });
    measure_peak();
    announce();
    sanity_check();
    while (!finished()) train_epoch();
    predict();
    if (!flags_.export_path.empty()) export_model();
  }

 private:
  bool leads() const { return communicator_.rank() == 0; }
  /// Prints a line above the progress lines, once.
  void say(const std::string& text) {
    if (!leads()) return;
    if (log_) return log_->display().print(text);
    fmt::print("{}\n", text);
  }

  // start ----------------------------------------------------------------------------------------

  static OwnTrainer make_trainer(C& communicator, const Flags& flags) {
    if constexpr (streams)
      return OwnTrainer({.directory = *flags.offload_dir}, *flags.seed);
    else
      return OwnTrainer(communicator, *flags.seed);
  }
  static std::uint64_t hash_of_schedule() {
    if constexpr (streams)
      return hash_of(StreamTableOf<P, StreamPass::train>::table);
    else
      return hash_of(ScheduleOf<P>::schedule);
  }
  static std::uint64_t hash_of_bytes(const Policy& p) {
    Hash hash;
    hash.add_bytes(reinterpret_cast<const char*>(&p), sizeof p);
    return hash.value;
  }
  std::uint64_t hash_of_data() const {
    Hash hash;
    for (const Dataset* data : {&data_.train, &data_.validation, &data_.test}) {
      const auto add = [&](const auto& values) {
        hash.add_bytes(reinterpret_cast<const char*>(values.data()),
                       values.size() * sizeof(values[0]));
      };
      add(data->token_ids), add(data->first_token), add(data->labels);
    }
    return hash.value;
  }

  void load_weights_or_draw() {
    if (flags_.pretrained_model_path.empty()) return;
    const std::filesystem::path folder = flags_.pretrained_model_path;
    require_same_config(folder / "config.json", read_config(folder / "config.json"),
                        hugging_face_config(policy.model, label_names(data_.labels)));
    say(fmt::format("{}: {}", folder.string(), describe(load_weights(folder, trainer_))));
  }

  void resume() {
    const ResumedRun state = load_checkpoint(flags_.ckpt_path, trainer_);
    if (state.labels != label_names(data_.labels))
      throw Error(
          flags_.ckpt_path,
          fmt::format("its classes are the labels {}, those of this run {}",
                      fmt::join(state.labels, ", "), fmt::join(label_names(data_.labels), ", ")),
          "Resume with the training file that the checkpoint was made with");
    if (const std::string warning = rules_.restore(state.kept); !warning.empty()) say(warning);
    flags_.seed = state.seed;
    step_ = state.step;
    metrics_ = state.metrics;
    validated_step_ = state.validated_step;
    validation_waits_ = state.validation_waits;
    if constexpr (P::policy.precision.compute == Compute::fp16)
      trainer_.step().restore(state.loss_scale);
    sampler_.start(state.sampler, state.seed);
    say(fmt::format("{}: goes on after step {}, epoch {}", flags_.ckpt_path, step_,
                    state.sampler.epoch));
    if (!state.notice.empty()) say(fmt::format("{}: {}", flags_.ckpt_path, state.notice));
  }

  std::int64_t epochs() const {
    return epoch_limit(flags_.max_epochs.has_value(), flags_.max_epochs.value_or(0),
                       flags_.max_steps);
  }

  /// Optimizer steps of an epoch; packed epochs differ a little, so each is counted.
  std::int64_t steps_of(std::int64_t epoch) const {
    return EpochPlan{.train_batches = sampler_.batches(epoch)}.steps(int(step_batches));
  }

  /// The schedule ends with the last step of the last epoch, or with max_steps where epochs have no
  /// bound, as in the original script; its total is counted in real optimizer steps.
  LearningRate learning_rate() const {
    constexpr std::int64_t counted = 32;  // epochs; more are taken to be like the first ones
    std::int64_t total = flags_.max_steps;
    if (epochs() >= 0) {
      total = 0;
      const std::int64_t exact = epochs() < counted ? epochs() : counted;
      for (std::int64_t epoch = 0; epoch < exact; ++epoch) total += steps_of(epoch);
      if (epochs() > exact) total = total * epochs() / exact;
    }
    return require_decay(
        LearningRate{.base = *flags_.learning_rate,
                     .steps = {total, double(std::int64_t(double(total) * *flags_.warmup))},
                     .decay = policy.schedule.decay,
                     .power = as_written(policy.schedule.power),
                     .end = as_written(policy.schedule.end)});
  }

  void require_known_metric() const {
    const bool known = flags_.monitor.empty() || std::ranges::count(metric_names, flags_.monitor);
    if (!known)
      throw Error("flag --monitor", "there is no metric '" + flags_.monitor + "'",
                  fmt::format("Name one of {}", fmt::join(metric_names, ", ")));
  }

  /// Whatever cannot be written is found now, not after the last epoch.
  void prepare_outputs() const {
    require_folder("dirpath", flags_.dirpath);
    const std::filesystem::path predictions = flags_.output_save_path;
    require_folder("output_save_path", folder_of(predictions));
    if (!predictions.has_filename() || std::filesystem::is_directory(predictions))
      throw Error("flag --output_save_path", "'" + predictions.string() + "' names no file",
                  "Name one for the predictions");
    if (!flags_.export_path.empty()) require_folder("export_path", flags_.export_path);
    for (const auto& entry : std::filesystem::directory_iterator(flags_.dirpath))
      if (is_temporary(entry.path()))
        fmt::print("{} is not whole: a run is writing it, or was killed while it did\n",
                   entry.path().string());
  }

  /// Of all ranks at once. On a shared machine one moment may be slow: it is measured again after
  /// each validation, and the best counts.
  void measure_peak() {
    const double mine = trainer_.backend().measured_peak(policy.compute_type());
    double sum = 0;
    for (const double peak : of_all_ranks(mine)) sum += peak;
    peak_ = std::max(peak_, sum);
  }
  /// Every rank's value, in rank order.
  template <class T> std::vector<T> of_all_ranks(const T& mine) {
    std::vector<T> all;
    for (const std::vector<std::byte>& theirs :
         communicator_.gather(std::as_bytes(std::span(&mine, 1))))
      std::memcpy(&all.emplace_back(), theirs.data(), sizeof(T));
    return all;
  }

  void announce() const {
    if (!leads()) return;
    fmt::print(
        "{}{} parameters; {} training, {} validation, {} test pairs; arena {:.2f} GiB of {:.2f} "
        "GiB; {}peak {:.0f} GFLOP/s in {}; logs in {}\n",
        policy.parallel.ranks() > 1 ? fmt::format("{} ranks; ", policy.parallel.ranks()) : "",
        policy_parameters(), data_.train.size(), data_.validation.size(), data_.test.size(),
        in_GiB(trainer_.memory()), in_GiB(policy.device.memory), on_disk(), peak_ / 1e9,
        *flags_.precision == "bf16" ? "bf16" : "fp" + *flags_.precision,
        log_->directory().path.string());
    std::fflush(stdout);
  }
  static double in_GiB(bytes size) { return double(size) / double(GiB); }
  std::string on_disk() const {
    if constexpr (policy.offload.to_disk())
      return fmt::format("{:.2f} GiB in {}; ", in_GiB(trainer_.plan.disk()), *flags_.offload_dir);
    return "";
  }
  static constexpr std::int64_t policy_parameters() {
    return parameters_of(P::policy.model).count();
  }

  // training -------------------------------------------------------------------------------------

  bool finished() const {
    const bool last_step = flags_.max_steps >= 0 && step_ >= flags_.max_steps;
    const bool last_epoch = epochs() >= 0 && sampler_.position().epoch >= epochs();
    return last_step || last_epoch;
  }

  void train_epoch() {
    const std::int64_t epoch = sampler_.position().epoch;
    const std::int64_t batches = sampler_.batches();
    const std::int64_t validation =
        batches_per_epoch(data_.validation.size(), flags_.valid_batchsize);
    plan_ = {batches, validation, period(batches)};
    bar_ = {.description = epoch_description(epoch), .total = plan_.total()};
    epoch_start_ = steady_seconds();
    if (sampler_.position().batch > 0) resume_epoch();

    while (flags_.max_steps < 0 || step_ < flags_.max_steps) {
      const std::int64_t first = sampler_.position().batch;
      if (!train_step(epoch, batches)) break;
      validate_if_due(first, sampler_.position().batch);
      save_what_waited(epoch);
    }
    read_out();
    if (leads()) log_->display().finish(ProgressRow::main);
    if (sampler_.position().batch < batches) return;  // max_steps ended it
    checkpoint_if_due(CheckpointMoment::train_epoch_end, epoch);
    sampler_.start({epoch + 1});
  }

  /// Whether the step that has just been taken ends the run.
  bool is_last_step(std::int64_t epoch, std::int64_t batches) const {
    if (flags_.max_steps >= 0 && step_ + 1 >= flags_.max_steps) return true;
    return epochs() >= 0 && epoch + 1 >= epochs() && sampler_.position().batch >= batches;
  }

  /// Goes on within an epoch. A checkpoint may have been written before the validation of its step,
  /// which is then still to come.
  void resume_epoch() {
    const std::int64_t end = sampler_.position().batch;
    const std::int64_t first = (end - 1) / step_batches * step_batches;  // of the latest step
    bar_.done = end + plan_.validation_batches * (end / plan_.period);
    if (validation_is_due(first, end)) bar_.done -= plan_.validation_batches;
    bar_.resumed = bar_.done;
    validate_if_due(first, end);
  }

  /// Batches between two validations. Packed epochs differ by a few batches: a number that the
  /// first one has is cut to what a later one has.
  std::int64_t period(std::int64_t batches) const {
    ValidationInterval interval = flags_.val_check_interval;
    interval.batches = std::min(interval.batches, batches);
    return validation_period(interval, batches);
  }

  /// False where the epoch has no micro-batch left. A device that runs ahead is waited for only
  /// where somebody wants to know: for a line of the log, a checkpoint, a validation.
  bool train_step(std::int64_t epoch, std::int64_t all_batches) {
    const StepNumbers numbers{.seed = *flags_.seed,
                              .step = step_,
                              .learning_rate = schedule_.at(step_),
                              .weight_decay = float(*flags_.weight_decay),
                              .clip = float(*flags_.gradient_clip_val)};
    if (unread_ == 0) unread_since_ = steady_seconds();
    const int batches = launch(numbers);
    if (batches == 0) return false;
    if (is_last_step(epoch, all_batches)) trainer_.step().sync();
    ++step_, ++unread_;
    bar_.done += batches;
    const auto every = [&](std::int64_t period) { return period > 0 && step_ % period == 0; };
    const bool logs = every(flags_.log_every_n_steps);
    if (!runs_ahead || logs || every(flags_.every_n_train_steps)) read_out();
    show();
    if (leads() && logs)
      log_->add(epoch, step_,
                {{"train_loss", last_.loss()},
                 {"train_acc", last_.accuracy()},
                 {"lr", numbers.learning_rate},
                 {"grad_norm", last_.gradient_norm},
                 {"mfu", mfu_},
                 {"useful_mfu", useful_}});
    checkpoint_if_due(CheckpointMoment::train_batch_end, epoch);
    return true;
  }
  int launch(const StepNumbers& numbers) {
    if constexpr (runs_ahead) {
      return trainer_.step().launch(sampler_, numbers);
    } else {
      last_ = trainer_.step().train(sampler_, numbers);
      return int(last_.micro_batches);
    }
  }

  /// What came of the steps since the last time.
  void read_out() {
    if (unread_ == 0) return;
    StepResult sum;
    const auto read = [&](const StepResult& result) {
      sum += last_ = result;
      recent_.add(result.loss());
    };
    if constexpr (runs_ahead)
      for (const StepResult& result : trainer_.step().read_out()) read(result);
    else
      read(last_);
    unread_ = 0;
    metrics_["train_loss"] = last_.loss();
    metrics_["train_acc"] = last_.accuracy();
    measure(sum, steady_seconds() - unread_since_);
  }

  /// Shares of the measured peak: of all rows that were computed, and of the real tokens among
  /// them.
  void measure(const StepResult& r, double seconds) {
    const double tokens = double(r.tokens), attended = double(r.attended);
    const double rows = double(r.rows);
    mfu_ = training_flops(policy.model, rows, attended) / seconds / peak_;
    useful_ = training_flops(policy.model, tokens, attended) / seconds / peak_;
  }

  void show() {
    if (!leads()) return;
    const double now = steady_seconds();
    bar_.elapsed = now - epoch_start_;
    bar_.postfix =
        training_postfix(recent_.mean(), log_->directory().version,
                         {{"mfu", fmt::format("{:.1f}%", 100 * mfu_)},
                          {"useful", fmt::format("{:.1f}%", 100 * useful_)},
                          {"arena", fmt::format("{:.2f}GiB", in_GiB(trainer_.high_water()))}});
    log_->display().show(ProgressRow::main, bar_, now);
  }

  // validation -----------------------------------------------------------------------------------

  struct Evaluation {
    StepResult result;
    ConfusionMatrix matrix{P::policy.model.labels};
    std::vector<std::int32_t> predictions;  // by sample
  };

  /// Forward over `samples` of a data set, in its order, each micro-batch on one data rank.
  Evaluation evaluate(const Dataset& data, const char* description, std::int64_t samples) {
    Sampler sampler(data, shape_);
    Evaluation e;
    e.predictions.resize(std::size_t(data.size()), -1);
    Progress row{.description = description,
                 .total = batches_per_epoch(samples, flags_.valid_batchsize)};
    const double start = steady_seconds();
    bool finite = true;
    const auto see = [&](int mine) {
      finite &=
          std::ranges::all_of(trainer_.step().logits(), [](float x) { return std::isfinite(x); });
      const auto predicted = trainer_.step().predictions();
      for (std::size_t s = 0; s < predicted.size(); ++s)
        e.predictions[std::size_t(sampler.samples(mine)[s])] = predicted[s];
    };
    while (sampler.position().sample < samples && trainer_.evaluate(sampler, e.result, see)) {
      if (!finite) throw_outputs_not_finite();
      if (!leads()) continue;
      const double now = steady_seconds();
      row.done = std::min(row.total, sampler.position().sample / flags_.valid_batchsize);
      row.elapsed = now - start;
      log_->display().show(ProgressRow::nested, row, now);
    }
    if (leads()) log_->display().finish(ProgressRow::nested);
    put_together(e, data);
    return e;
  }

  /// What all ranks have seen, on all of them.
  void put_together(Evaluation& e, const Dataset& data) {
    StepResult sum;
    for (const StepResult& result : of_all_ranks(e.result)) sum += result;
    e.result = sum;
    for (const std::vector<std::byte>& theirs :
         communicator_.gather(std::as_bytes(std::span(e.predictions))))
      for (std::size_t i = 0; i < e.predictions.size(); ++i) {
        std::int32_t predicted = -1;
        std::memcpy(&predicted, theirs.data() + i * sizeof predicted, sizeof predicted);
        e.predictions[i] = std::max(e.predictions[i], predicted);
      }
    for (std::size_t i = 0; i < e.predictions.size(); ++i)
      if (e.predictions[i] >= 0) e.matrix.add(data.labels[i], e.predictions[i]);
  }

  /// The largest of outputs that are not numbers would still name a class.
  [[noreturn]] void throw_outputs_not_finite() {
    require_finite(trainer_, step_);
    throw Error(fmt::format("step {}", step_),
                "the outputs of the model are not finite numbers, though its weights are",
                "Use other weights: these overflow in " + *flags_.precision);
  }

  void sanity_check() {
    const std::int64_t batches =
        sanity_batches(flags_.num_sanity_val_steps,
                       batches_per_epoch(data_.validation.size(), flags_.valid_batchsize));
    if (batches == 0 || step_ > 0) return;
    evaluate(data_.validation, sanity_check_description,
             std::min(data_.validation.size(), batches * flags_.valid_batchsize));
  }

  /// Whether one of the micro-batches [first, end) is the last of a period and not validated yet.
  bool validation_is_due(std::int64_t first, std::int64_t end) const {
    bool due = false;
    for (std::int64_t i = first; i < end; ++i) due |= plan_.validates_after(i);
    return due && step_ != validated_step_;
  }

  /// What falls between two syncs of 0/1 Adam is done at the next.
  void validate_if_due(std::int64_t first, std::int64_t end) {
    validation_waits_ |= validation_is_due(first, end);
    if (!validation_waits_ || !trainer_.step().is_synced()) return;
    validation_waits_ = false;
    read_out();
    const std::int64_t epoch = sampler_.position().epoch;
    const Evaluation e =
        evaluate(data_.validation, validation_description, data_.validation.size());
    validated_step_ = step_;
    measure_peak();
    metrics_["val_loss"] = e.result.loss();
    metrics_["val_acc"] = e.matrix.accuracy();
    metrics_["val_f1"] = policy.model.labels == 2 ? e.matrix.f1(1) : e.matrix.macro_f1();
    bar_.done = std::min(bar_.done + plan_.validation_batches, bar_.total);
    if (leads())
      log_->add(epoch, step_,
                {{"val_loss", metrics_["val_loss"]},
                 {"val_acc", metrics_["val_acc"]},
                 {"val_f1", metrics_["val_f1"]}});
    show();
    say(fmt::format(
        "step {}: val_loss {:.4f}, val_acc {:.4f}, {} {:.4f} (always the most frequent label: "
        "{:.4f})",
        step_, e.result.loss(), e.matrix.accuracy(), policy.model.labels == 2 ? "F1" : "macro F1",
        metrics_["val_f1"], e.matrix.majority_rate()));
    checkpoint_if_due(CheckpointMoment::validation_end, epoch);
  }

  // files ----------------------------------------------------------------------------------------

  void checkpoint_if_due(CheckpointMoment moment, std::int64_t epoch) {
    if (trainer_.step().is_synced())
      save_if({.moment = moment, .epoch = epoch});
    else
      checkpoint_waits_ |= rules_.due(moment, step_);
  }
  void save_what_waited(std::int64_t epoch) {
    if (checkpoint_waits_ && trainer_.step().is_synced()) {
      checkpoint_waits_ = false;
      save_if({.epoch = epoch, .has_waited = true});
    }
  }
  /// What the rules say of an event of now.
  void save_if(const CheckpointEvent& event) {
    const std::filesystem::path folder = flags_.dirpath;
    const CheckpointActions actions =
        rules_.decide({.moment = event.moment,
                       .epoch = event.epoch,
                       .step = step_,
                       .has_waited = event.has_waited,
                       .validation_has_run = validated_step_ >= 0,
                       .metrics = metrics_},
                      [&](const std::string& name) {
                        const bool here = leads() && std::filesystem::exists(folder / name);
                        return together::of_rank_0(communicator_, here ? "yes" : "no") == "yes";
                      });
    if (!actions.warning.empty()) say(actions.warning);
    if (!actions.save.empty()) {
      require_finite_weights();
      save_checkpoint(folder / actions.save, trainer_, state(), flags_.save_weights_only);
    }
    std::error_code ignored;
    if (leads() && !actions.remove.empty())
      std::filesystem::remove(folder / actions.remove, ignored);
  }

  void require_finite_weights() {
    together::run(communicator_, [&] { require_finite(trainer_, step_); });
  }

  RunState state() {
    return {.step = step_,
            .loss_scale = trainer_.step().loss_scale(),
            .seed = *flags_.seed,
            .sampler = sampler_.position(),
            .metrics = metrics_,
            .validated_step = validated_step_,
            .validation_waits = validation_waits_,
            .labels = label_names(data_.labels),
            .kept = rules_.state()};
  }

  void predict() {
    const Evaluation e = evaluate(data_.test, "Predicting DataLoader 0", data_.test.size());
    together::run(communicator_, [&] {
      if (leads()) write(e.predictions);
    });
  }
  void write(const std::vector<std::int32_t>& predicted) {
    std::vector<Prediction> predictions;
    for (std::size_t i = 0; i < predicted.size(); ++i)
      predictions.push_back({data_.test.ids[i], data_.labels.raw(predicted[i])});
    write_predictions(flags_.output_save_path, predictions);
    fmt::print("{} predictions written to {}\n", predictions.size(), flags_.output_save_path);
  }

  void export_model() {
    require_finite_weights();
    together::run(communicator_, [&] {
      if (leads())
        save_config_and_vocabulary(flags_.export_path,
                                   hugging_face_config(policy.model, label_names(data_.labels)),
                                   data_.vocabulary);
    });
    save_weights(std::filesystem::path(flags_.export_path) / "model.safetensors", trainer_);
    say(fmt::format("model saved to {}", flags_.export_path));
  }

  C& communicator_;
  Flags flags_;
  RunData data_;
  Batch shape_;
  CheckpointRules rules_;
  Sampler sampler_;
  OwnTrainer trainer_;
  LearningRate schedule_;
  std::optional<RunLog> log_;
  double peak_ = 0;  // operations a second

  std::int64_t step_ = 0;                                     // optimizer steps done
  std::int64_t validated_step_ = -1;                          // at the latest validation
  bool validation_waits_ = false, checkpoint_waits_ = false;  // for a sync
  std::map<std::string, double> metrics_;
  RunningMean<20> recent_;
  StepResult last_;          // the latest that was read
  std::int64_t unread_ = 0;  // steps launched since
  double unread_since_ = 0;
  EpochPlan plan_;
  Progress bar_;
  double epoch_start_ = 0, mfu_ = 0, useful_ = 0;
};

namespace finetune {

/// What the program does on one rank once it has a communicator.
template <HasPolicy P, Backend B, Communicator C> void run(const Flags& flags, C& communicator) {
  std::optional<FineTuning<P, B, C>> job;
  together::run(communicator, [&] { job.emplace(flags, communicator); });
  job->run();
}

/// The communicator of this process's rank: of the policy alone, or of its numbers.
template <HasPolicy P, Communicator C> C connect() {
  if constexpr (std::is_constructible_v<C, const Policy&>)
    return C(P::policy);
  else
    return C(grid_of(P::policy.parallel), double(P::policy.parallel.deadline),
             P::policy.parallel.ranks());
}

/// The rank that a launcher gave this process, for the time before it has a communicator.
inline int launched_rank() {
  for (const char* name : {"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return 0;
}

}  // namespace finetune

/// A program: fine-tunes P's model as the flags say (`--help` lists them). Returns 0, or 1 after
/// one line on stderr that says what is wrong, where, and what to do. With C = Mpi, or Nccl for
/// cards, it is one of the ranks of a policy that has several, started by mpirun, srun or, with
/// Nccl, torchrun.
template <HasPolicy P, Backend B = DefaultBackend, Communicator C = Single>
int finetune_classification(int argc, const char* const* argv) {
  static_assert(std::is_same_v<C, Single> == (P::policy.parallel.ranks() == 1),
                "a policy of several ranks needs a communicator between them, and one of one rank "
                "has none: finetune_classification<P, Cpu, Mpi>(argc, argv), or <P, Cuda, Nccl>");
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is a full disk: an Error, not a death
  const int rank = finetune::launched_rank();
  bool speaks = rank == 0;  // until ranks are connected, all of them fail alike
  try {
    const CommandLine line = parse_flags(argc, argv);
    if (!line.help.empty()) {
      if (rank == 0) fmt::print("{}", line.help);
      return 0;
    }
    for (const std::string& notice : line.notices)
      if (rank == 0) fmt::print("{}\n", notice);
    check_against_policy(line.flags, fixed_by(P::policy));
    if constexpr (std::is_same_v<C, Single>) {
      Single alone;
      finetune::run<P, B>(line.flags, alone);
    } else {
      C communicator = finetune::connect<P, C>();
      speaks = true;
      finetune::run<P, B>(line.flags, communicator);
    }
    return 0;
  } catch (const OtherRankFailed&) {
    return 1;  // it says why
  } catch (const Error& error) {
    if (speaks) fmt::print(stderr, "error: {}\n", error.what());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr,
               "error: memory: the machine has none left for the data. Free some, or give smaller "
               "files\n");
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: ctrain: {}. Please report this\n", error.what());
  }
  return 1;
}

}  // namespace ctrain
