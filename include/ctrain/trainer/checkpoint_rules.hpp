/// \file  Which checkpoints to write and delete, as Lightning's ModelCheckpoint decides it.   floor 6: trainer
#pragma once

#include <ctrain/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// The points of a run at which a checkpoint may be due, in their order within a batch.
enum class CheckpointMoment : std::uint8_t { train_batch_end, validation_end, train_epoch_end };

/// `--mode`: which of two values of the monitored metric is the better one.
enum class Better : std::uint8_t { smaller, larger };

struct CheckpointOptions {
  std::string monitor = "train_loss";  // empty: none, the latest checkpoint is kept
  Better better = Better::smaller;
  std::int64_t top_k = 3;                // best ones to keep; -1: all, 0: none
  std::int64_t every_n_train_steps = 0;  // 0: once an epoch or after each validation
  bool save_on_train_epoch_end = true;   // which of the two, see saves_on_train_epoch_end
  std::string filename = "{epoch}-{step}";
  std::string directory{};  // identifies the kept files to a resumed run; never touched here
};

/// What a run knows when a checkpoint may be due. `metrics` hold the latest logged value of each
/// name, however old.
struct CheckpointEvent {
  CheckpointMoment moment = CheckpointMoment::train_batch_end;
  std::int64_t epoch = 0;
  std::int64_t step = 0;            // optimizer steps completed
  bool has_waited = false;          // one was due at a step after which nothing could be saved
  bool validation_has_run = false;  // a real one, not the sanity check
  std::map<std::string, double> metrics{};
};

/// What to do, in this order: warn, write `save`, then delete `remove`. Empty strings: nothing.
struct CheckpointActions {
  std::string warning{};
  std::string save{};
  std::string remove{};
};

struct KeptCheckpoint {
  std::string name;
  double score = 0;

  friend bool operator==(const KeptCheckpoint&, const KeptCheckpoint&) = default;
};

/// What a full checkpoint stores of the rules, so that a resumed run goes on with them.
struct CheckpointState {
  std::string directory;
  std::vector<KeptCheckpoint> kept;  // oldest first
  KeptCheckpoint best;               // empty name: none yet
  std::int64_t last_saved_step = 0;

  friend bool operator==(const CheckpointState&, const CheckpointState&) = default;
};

// file names -------------------------------------------------------------------------------------

/// A name such as `model-{epoch:02d}-{val_acc:.4f}`, which becomes
/// `model-epoch=00-val_acc=0.7012`. A field is `{name}` or `{name:format}`, the format being
/// [0][width][.digits] and one of d, e, f, g or nothing.
class CheckpointName {
 public:
  /// Throws Error on a template that cannot become a file name.
  explicit CheckpointName(const std::string& pattern)
      : pattern_(pattern.empty() ? "{epoch}-{step}" : pattern) {
    std::size_t at = 0;
    while (at < pattern_.size()) at = read_part(at);
  }

  /// The name without version and extension. `epoch` and `step` are whole numbers, as is the 0 of a
  /// metric that does not exist.
  std::string format(const CheckpointEvent& event) const {
    std::string name;
    for (const Part& part : parts_) {
      name += part.text;
      if (!part.key.empty()) name += part.key + "=" + value(part, event);
    }
    if (name.size() > 240)
      fail("names a file of " + std::to_string(name.size()) + " characters", "Shorten it to 240");
    return name;
  }

 private:
  struct Part {
    std::string text;  // literal, before the field
    std::string key;   // empty: no field follows
    std::string spec;
  };

  [[noreturn]] void fail(const std::string& what, const std::string& fix) const {
    throw Error("flag --filename", "'" + pattern_ + "' " + what, fix);
  }

  /// Reads literal text and the field after it; returns where to go on.
  std::size_t read_part(std::size_t begin) {
    const std::size_t open = std::min(pattern_.find('{', begin), pattern_.size());
    Part part{pattern_.substr(begin, open - begin), "", ""};
    if (part.text.find('}') != part.text.npos)
      fail("has a '}' without its '{'", "Write {name:.4f}");
    if (part.text.find('/') != part.text.npos)
      fail("names a folder", "Put the folder into --dirpath");
    if (open == pattern_.size()) {
      parts_.push_back(part);
      return open;
    }
    const std::size_t close = pattern_.find('}', open);
    if (close == pattern_.npos) fail("has a '{' without its '}'", "Write {name:.4f}");
    const std::string field = pattern_.substr(open + 1, close - open - 1);
    const std::size_t colon = std::min(field.find(':'), field.size());
    part.key = field.substr(0, colon);
    part.spec = field.substr(std::min(colon + 1, field.size()));
    require_field(part);
    parts_.push_back(part);
    return close + 1;
  }

  void require_field(const Part& part) const {
    if (part.key.empty()) fail("has a field without a name", "Name a metric, as in {val_acc:.4f}");
    if (part.key.find_first_of("{/!.[]=") != part.key.npos)
      fail("has a field '" + part.key + "', which cannot be a part of a file name",
           "Name epoch, step or a metric, as in {val_acc:.4f}");
    if (!is_format(part.spec))
      fail("has a format '" + part.spec + "'", "Use one such as 02d, .4f, .2e or nothing");
    const bool counts = part.key == "epoch" || part.key == "step";
    if (!counts && part.spec.ends_with('d'))
      fail("formats the metric " + part.key + " as a whole number", "Use a format such as .4f");
  }

  /// [0][width][.digits][d e f g], width and digits of at most two digits.
  static bool is_format(std::string_view spec) {
    const auto skip_number = [&spec] {
      const std::size_t digits = std::min(spec.find_first_not_of("0123456789"), spec.size());
      spec.remove_prefix(digits);
      return digits;
    };
    if (spec.starts_with('0')) spec.remove_prefix(1);
    if (skip_number() > 2) return false;
    const bool has_digits = spec.starts_with('.');
    if (has_digits) {
      spec.remove_prefix(1);
      const std::size_t digits = skip_number();
      if (digits < 1 || digits > 2) return false;
    }
    if (spec == "d") return !has_digits;
    return spec.empty() || spec == "e" || spec == "f" || spec == "g";
  }

  static std::string value(const Part& part, const CheckpointEvent& event) {
    const auto metric = event.metrics.find(part.key);
    if (part.key == "epoch" || part.key == "step" || metric == event.metrics.end()) {
      const std::int64_t whole = part.key == "epoch"  ? event.epoch
                                 : part.key == "step" ? event.step
                                                      : 0;
      const bool as_real = part.spec.find_first_of(".efg") != part.spec.npos;
      return as_real ? formatted(part.spec, double(whole)) : formatted(part.spec, whole);
    }
    const std::string text = formatted(part.spec, metric->second);
    // A real number without a format shows that it is one.
    const bool looks_whole =
        part.spec.empty() && std::isfinite(metric->second) && text.find_first_of(".e") == text.npos;
    return looks_whole ? text + ".0" : text;
  }

  template <class Number> static std::string formatted(const std::string& spec, Number number) {
    return fmt::format(fmt::runtime("{:" + spec + "}"), number);
  }

  std::string pattern_;
  std::vector<Part> parts_;
};

// rules ------------------------------------------------------------------------------------------

/// Decides; touches no file. Every rank asks in the same order. All it needs from outside is
/// whether a name exists (rank 0's answer) and, where ranks may differ in the metric, their
/// agreement.
class CheckpointRules {
 public:
  static constexpr const char* extension = ".ckpt";

  /// Throws Error on options that contradict themselves.
  explicit CheckpointRules(const CheckpointOptions& options)
      : options_(options), name_(options.filename) {
    if (options.top_k < -1)
      throw Error("flag --save_top_k", std::to_string(options.top_k) + " checkpoints",
                  "Give -1 for all, 0 for none, or how many to keep");
    if (options.every_n_train_steps < 0)
      throw Error("flag --every_n_train_steps",
                  std::to_string(options.every_n_train_steps) + " steps",
                  "Give a number of steps, or 0 for once an epoch");
    if (options.monitor.empty() && options.top_k > 1)
      throw Error(
          "flag --save_top_k",
          std::to_string(options.top_k) + " best checkpoints, but --monitor names no metric",
          "Name one, or give -1, 0 or 1");
    state_.directory = options.directory;
  }

  /// Whether a checkpoint may be written now: its trigger fires, and none was written at this step.
  bool due(CheckpointMoment moment, std::int64_t step) const {
    if (!may_save(step)) return false;
    const std::int64_t period = options_.every_n_train_steps;
    if (moment == CheckpointMoment::train_batch_end) return period > 0 && step % period == 0;
    return period == 0 &&
           (moment == CheckpointMoment::train_epoch_end) == options_.save_on_train_epoch_end;
  }

  /// What to do at an event. `exists(name)` says whether a file of that name is in the directory;
  /// `agree(bool)` is true iff every rank says true. Throws Error where the monitored metric is
  /// still missing after a validation.
  template <class Exists, class Agree>
  CheckpointActions decide(const CheckpointEvent& event, const Exists& exists, const Agree& agree) {
    if (event.has_waited ? !may_save(event.step) : !due(event.moment, event.step)) return {};
    if (options_.monitor.empty()) return save_latest(event, exists);
    const auto metric = event.metrics.find(options_.monitor);
    if (metric == event.metrics.end()) return warn_of_missing(event);
    if (!agree(enters(metric->second))) return {};
    return save_best(event, metric->second, exists);
  }
  template <class Exists>
  CheckpointActions decide(const CheckpointEvent& event, const Exists& exists) {
    return decide(event, exists, [](bool mine) { return mine; });
  }

  const CheckpointState& state() const { return state_; }

  /// Goes on with the state of a checkpoint. Returns a warning where it was about another
  /// directory: then only the best one is remembered, and the files there are left alone.
  std::string restore(const CheckpointState& saved) {
    state_.best = saved.best;
    state_.last_saved_step = saved.last_saved_step;
    if (saved.directory == options_.directory) {
      state_.kept = saved.kept;
      return {};
    }
    return "checkpoints were kept in '" + saved.directory + "', now in '" + options_.directory +
           "': those of before are neither counted nor deleted";
  }

 private:
  bool may_save(std::int64_t step) const {
    return step != state_.last_saved_step && options_.top_k != 0;
  }
  bool is_better(double a, double b) const {
    return options_.better == Better::smaller ? a < b : a > b;
  }

  /// The first among the worst, or among the best.
  std::vector<KeptCheckpoint>::iterator extreme(bool worst) {
    auto found = state_.kept.begin();
    for (auto it = found; it != state_.kept.end(); ++it)
      if (worst ? is_better(found->score, it->score) : is_better(it->score, found->score))
        found = it;
    return found;
  }

  bool is_full() const {
    return options_.top_k > 0 && std::int64_t(state_.kept.size()) >= options_.top_k;
  }

  /// Strictly better than the worst kept one; a NaN is never.
  bool enters(double score) { return !is_full() || is_better(score, extreme(true)->score); }

  CheckpointActions warn_of_missing(const CheckpointEvent& event) {
    std::string known;
    for (const auto& [name, value] : event.metrics) known += (known.empty() ? "" : ", ") + name;
    const std::string what = "no metric '" + options_.monitor +
                             "' has been logged, only: " + (known.empty() ? "none" : known);
    if (event.validation_has_run) throw Error("flag --monitor", what, "Name one of these");
    if (std::exchange(warned_, true)) return {};
    return {.warning = what + ". No checkpoint is written before it is"};
  }

  template <class Exists>
  CheckpointActions save_best(const CheckpointEvent& event, double score, const Exists& exists) {
    CheckpointActions actions;
    if (is_full()) {
      const auto worst = extreme(true);
      actions.remove = worst->name;
      state_.kept.erase(worst);
    }
    if (std::isnan(score)) {
      const double infinity = std::numeric_limits<double>::infinity();
      score = options_.better == Better::smaller ? infinity : -infinity;
    }
    actions.save = free_name(event, exists, actions.remove);
    if (actions.save == actions.remove) actions.remove.clear();  // overwritten instead
    keep({actions.save, score});
    state_.best = *extreme(false);
    state_.last_saved_step = event.step;
    return actions;
  }

  /// Adds a checkpoint. One whose file was deleted from outside and whose name came back takes the
  /// place of its old entry.
  void keep(const KeptCheckpoint& added) {
    const auto same = [&](const KeptCheckpoint& kept) { return kept.name == added.name; };
    const auto old = std::find_if(state_.kept.begin(), state_.kept.end(), same);
    if (old == state_.kept.end())
      state_.kept.push_back(added);
    else
      *old = added;
  }

  template <class Exists>
  CheckpointActions save_latest(const CheckpointEvent& event, const Exists& exists) {
    CheckpointActions actions;
    actions.save = free_name(event, exists, "");
    if (options_.top_k == 1) actions.remove = state_.best.name;
    state_.best = {actions.save, 0};
    state_.last_saved_step = event.step;
    return actions;
  }

  /// The event's name with the first version that no file has, except the one about to go.
  template <class Exists>
  std::string free_name(const CheckpointEvent& event, const Exists& exists,
                        const std::string& leaving) const {
    const std::string stem = name_.format(event);
    std::string name = stem + extension;
    for (std::int64_t version = 1; name != leaving && exists(name); ++version)
      name = stem + "-v" + std::to_string(version) + extension;
    return name;
  }

  CheckpointOptions options_;
  CheckpointName name_;
  CheckpointState state_;
  bool warned_ = false;
};

}  // namespace ctrain
