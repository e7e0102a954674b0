/// \file  Checkpoints: logical tensors and the run's position in one safetensors file.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/hugging_face.hpp>
#include <ctrain/io/optimizer_buffers.hpp>
#include <ctrain/io/safetensors.hpp>
#include <ctrain/io/sampler.hpp>
#include <ctrain/io/together.hpp>
#include <ctrain/trainer/checkpoint_rules.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace ctrain {

// A checkpoint is a safetensors file. Weights have their Hugging Face names; a full one also holds
// "optimizer.exp_avg.NAME" and "optimizer.exp_avg_sq.NAME" for each, torch's names for the moments.
// Everything is named and shaped logically: nothing in it depends on how a run was laid out, but
// for the errors of 1-bit optimizers (optimizer_buffers.hpp). The rest of the state is JSON under
// the metadata key "ctrain".

/// Where a run stands, besides its tensors.
struct RunState {
  std::int64_t step = 0;      // optimizer steps done
  LossScaleState loss_scale;  // with the number of those that were skipped
  std::uint64_t seed = 0;
  SamplerPosition sampler;
  std::map<std::string, double> metrics;  // latest value of each, for the checkpoint rules
  std::int64_t validated_step = -1;       // step of the latest validation; -1: none yet
  bool validation_waits = false;          // one is due that had to wait for a sync
  std::vector<std::string> labels;        // names of the classes, in their order
  CheckpointState kept;

  /// Steps that changed weights.
  std::int64_t updates() const { return step - loss_scale.skipped_steps; }
};

/// One that a run goes on from.
struct ResumedRun : RunState {
  std::string notice;  // what a user should know of how it goes on, if anything
};

namespace checkpoint {

inline constexpr const char* first_moment = "optimizer.exp_avg.";
inline constexpr const char* second_moment = "optimizer.exp_avg_sq.";
inline constexpr int format = 1;

/// A number as text, since JSON has no infinity, which stands for a metric that was not a number.
inline std::string number_text(double value) {
  return fmt::format("{}", value);
}
inline double number_from(const nlohmann::json& j) {
  return std::strtod(j.get<std::string>().c_str(), nullptr);
}

inline nlohmann::json to_json(const KeptCheckpoint& k) {
  return {{"name", k.name}, {"score", number_text(k.score)}};
}
inline KeptCheckpoint kept_from(const nlohmann::json& j) {
  return {j.at("name"), number_from(j.at("score"))};
}

inline nlohmann::json to_json(const LossScaleState& s) {
  return {{"scale", s.scale},
          {"step", s.step},
          {"last_overflow", s.last_overflow},
          {"good_steps", s.good_steps},
          {"overflows_left", s.overflows_left},
          {"skipped_steps", s.skipped_steps}};
}
inline LossScaleState loss_scale_from(const nlohmann::json& j) {
  return {.scale = j.at("scale"),
          .step = j.at("step"),
          .last_overflow = j.at("last_overflow"),
          .good_steps = j.at("good_steps"),
          .overflows_left = j.at("overflows_left"),
          .skipped_steps = j.at("skipped_steps")};
}

inline nlohmann::json to_json(const RunState& s) {
  nlohmann::json kept = nlohmann::json::array(), metrics = nlohmann::json::object();
  for (const KeptCheckpoint& k : s.kept.kept) kept.push_back(to_json(k));
  for (const auto& [name, value] : s.metrics) metrics[name] = number_text(value);
  return {{"format", format},
          {"step", s.step},
          {"loss_scale", to_json(s.loss_scale)},
          {"seed", s.seed},
          {"sampler",
           {{"epoch", s.sampler.epoch}, {"batch", s.sampler.batch}, {"sample", s.sampler.sample}}},
          {"metrics", metrics},
          {"validated_step", s.validated_step},
          {"validation_waits", s.validation_waits},
          {"labels", s.labels},
          {"kept",
           {{"directory", s.kept.directory},
            {"checkpoints", kept},
            {"best", to_json(s.kept.best)},
            {"last_saved_step", s.kept.last_saved_step}}}};
}

inline RunState from_json(const nlohmann::json& j) {
  RunState s;
  s.step = j.at("step");
  if (j.contains("loss_scale")) s.loss_scale = loss_scale_from(j.at("loss_scale"));
  s.seed = j.at("seed");
  const nlohmann::json& sampler = j.at("sampler");
  s.sampler = {sampler.at("epoch"), sampler.at("batch"), sampler.at("sample")};
  for (const auto& [name, value] : j.at("metrics").items()) s.metrics[name] = number_from(value);
  s.validated_step = j.at("validated_step");
  s.validation_waits = j.value("validation_waits", false);
  s.labels = j.at("labels");
  const nlohmann::json& kept = j.at("kept");
  s.kept.directory = kept.at("directory");
  for (const nlohmann::json& k : kept.at("checkpoints")) s.kept.kept.push_back(kept_from(k));
  s.kept.best = kept_from(kept.at("best"));
  s.kept.last_saved_step = kept.at("last_saved_step");
  return s;
}

}  // namespace checkpoint

namespace checkpoint {

/// A tensor's name in a file.
inline std::string file_name(State state, const std::string& name) {
  return (state == State::weight         ? ""
          : state == State::first_moment ? first_moment
                                         : second_moment) +
         name;
}

/// Everything that a run goes on with, or its weights.
inline const std::vector<State>& states(bool weights_only) {
  static const std::vector<State> all = {State::weight, State::first_moment, State::second_moment},
                                  weights = {State::weight};
  return weights_only ? weights : all;
}

}  // namespace checkpoint

/// Throws Error, naming the first weight of this rank that is not finite: such a model replaces no
/// good one. `step` is how many steps are done.
template <class T> void require_finite(T& trainer, std::int64_t step) {
  trainer.read_states(checkpoint::states(true), [&](State, const TensorPart& part) {
    for (std::int64_t i = 0; i < part.count; ++i)
      if (!std::isfinite(part.data[i]))
        throw Error(fmt::format("step {}", step), "weight " + part.name + " is not a finite number",
                    "Lower the learning rate and resume from the last checkpoint, which is "
                    "unharmed, or use other weights");
  });
}

namespace checkpoint {

/// One file of these states and buffers, from all ranks.
template <class T>
void save(const std::filesystem::path& path, T& trainer, const std::vector<State>& states,
          const std::vector<OptimizerBuffer>& buffers,
          const std::map<std::string, std::string>& metadata) {
  std::vector<LogicalTensor> tensors;
  for (const State state : states)
    for (LogicalTensor& t : trainer.state_dict())
      tensors.push_back({file_name(state, t.name), std::move(t.shape)});
  each_part_of(trainer, buffers, [&](const std::string& name, const TensorPart& part) {
    tensors.push_back({name, part.shape});
  });
  write_together(trainer.communicator(), path, std::move(tensors), metadata, [&](auto&& put) {
    trainer.read_states(states, [&](State state, const TensorPart& part) {
      if (part.is_mine) put(file_name(state, part.name), part);
    });
    each_part_of(trainer, buffers, [&](const std::string& name, const TensorPart& part) {
      if (part.is_mine) put(name, part);
    });
  });
}

/// These states of a file, on every rank what it holds. Nothing is written to the trainer unless
/// everything is there, what else is `wanted` included; the classifier may be optional.
template <class T>
LoadReport load(const TensorSource& source, T& trainer, const std::vector<State>& states,
                std::vector<WantedTensor> wanted, bool classifier_is_optional = false) {
  for (const State state : states)
    for (LogicalTensor& t : trainer.state_dict()) {
      const bool optional = classifier_is_optional && t.name.starts_with("classifier.");
      wanted.push_back({file_name(state, t.name), std::move(t.shape), optional});
    }
  const MatchedTensors matched(source, wanted);
  trainer.write_states(states, [&](State state, const TensorPart& part) {
    matched.read(file_name(state, part.name), part.first, part.data, part.count);
  });
  return matched.report();
}

}  // namespace checkpoint

/// Writes the weights of all ranks as one file of the state dict.
template <class T> void save_weights(const std::filesystem::path& path, T& trainer) {
  checkpoint::save(path, trainer, checkpoint::states(true), {}, {{"format", "pt"}});
}

/// Reads the weights of a model directory. The classifier may be absent, and then stays as it is.
template <class T> LoadReport load_weights(const std::filesystem::path& directory, T& trainer) {
  return checkpoint::load(*open_weights(directory), trainer, checkpoint::states(true), {}, true);
}

/// Writes a checkpoint from all ranks: a crash or a full disk leaves what was there before. Only
/// rank 0's `state` counts, but all have made as many steps and updates.
template <class T>
void save_checkpoint(const std::filesystem::path& path, T& trainer, const RunState& state,
                     bool weights_only) {
  std::vector<OptimizerBuffer> buffers;
  for (const OptimizerBuffer b : optimizer_buffers)
    if (!weights_only && checkpoint::is_in_use(T::policy, b, state.updates())) buffers.push_back(b);
  checkpoint::save(path, trainer, checkpoint::states(weights_only), buffers,
                   {{"ctrain", checkpoint::to_json(state).dump()}});
}

/// Reads a full checkpoint back, each rank what it holds, however the run that wrote it was laid
/// out. Nothing is written to the trainer unless everything is there.
template <class T> ResumedRun load_checkpoint(const std::filesystem::path& path, T& trainer) {
  const SafeTensors file(path);
  const auto metadata = file.metadata().find("ctrain");
  if (metadata == file.metadata().end())
    throw Error(path.string(), "is no checkpoint of ctrain (no \"ctrain\" in its metadata)",
                "To start from these weights, pass their directory as --pretrained_model_path");
  RunState state;
  try {
    const nlohmann::json json = nlohmann::json::parse(metadata->second);
    if (json.at("format") != checkpoint::format)
      throw Error(path.string(),
                  "is a checkpoint of format " + json.at("format").dump() + ", not 1",
                  "Resume with the version of ctrain that wrote it");
    state = checkpoint::from_json(json);
  } catch (const nlohmann::json::exception& e) {
    throw Error(path.string(), "its run state cannot be read (" + json_complaint(e.what()) + ")",
                "Resume from another checkpoint");
  }
  if (file.find(checkpoint::first_moment + trainer.state_dict().front().name) == nullptr)
    throw Error(path.string(), "holds weights only, so a run cannot go on from it",
                "Resume from a checkpoint written with --save_weights_only False");
  if constexpr (is_adam(T::policy.optimizer.kind)) {
    checkpoint::load(file, trainer, checkpoint::states(false), {});
    return {state, ""};
  } else {
    checkpoint::BufferLoad buffers(file, trainer, state.updates());
    checkpoint::load(file, trainer, checkpoint::states(false), buffers.wanted());
    return {state, buffers.read()};
  }
}

}  // namespace ctrain
