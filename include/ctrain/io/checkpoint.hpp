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
  s.labels = j.at("labels");
  const nlohmann::json& kept = j.at("kept");
  s.kept.directory = kept.at("directory");
  for (const nlohmann::json& k : kept.at("checkpoints")) s.kept.kept.push_back(kept_from(k));
  s.kept.best = kept_from(kept.at("best"));
  s.kept.last_saved_step = kept.at("last_saved_step");
  return s;
}

}  // namespace checkpoint

/// Throws Error, naming the first weight of this rank that is not finite: such a model replaces no
/// good one. `step` is how many steps are done.
inline void require_finite(const std::vector<TensorPart>& parts, std::int64_t step) {
  for (const TensorPart& part : parts)
    for (std::int64_t i = 0; i < part.count; ++i)
      if (!std::isfinite(part.data[i]))
        throw Error(fmt::format("step {}", step), "weight " + part.name + " is not a finite number",
                    "Lower the learning rate and resume from the last checkpoint, which is "
                    "unharmed, or use other weights");
}

namespace checkpoint {

/// One state of every tensor, as a file has it: its name with `prefix`, and what this rank writes.
template <class T>
void add_tensors(std::vector<SharedTensor>& all, T& trainer, State state, const char* prefix) {
  std::map<std::string, std::size_t> place;
  for (const LogicalTensor& t : trainer.state_dict()) {
    place[t.name] = all.size();
    all.push_back({prefix + t.name, t.shape});
  }
  for (const TensorPart& part : trainer.parts(state))
    if (part.is_mine) all[place[part.name]].parts.push_back(part);
}

/// The same as what to read: on every rank what it holds.
template <class T>
void add_wanted(std::vector<WantedTensor>& all, T& trainer, State state, const char* prefix) {
  std::map<std::string, std::size_t> place;
  for (const LogicalTensor& t : trainer.state_dict()) {
    place[t.name] = all.size();
    all.push_back({prefix + t.name, t.shape, {}, false});
  }
  for (const TensorPart& part : trainer.parts(state))
    all[place[part.name]].to.push_back({part.first, part.count, part.data});
}

}  // namespace checkpoint

/// Writes the weights of all ranks as one file of the state dict.
template <class T> void save_weights(const std::filesystem::path& path, T& trainer) {
  std::vector<SharedTensor> tensors;
  checkpoint::add_tensors(tensors, trainer, State::weight, "");
  write_together(trainer.communicator(), path, std::move(tensors), {{"format", "pt"}});
}

/// Writes a checkpoint from all ranks: a crash or a full disk leaves what was there before. Only
/// rank 0's `state` counts, but all have made as many steps and updates.
template <class T>
void save_checkpoint(const std::filesystem::path& path, T& trainer, const RunState& state,
                     bool weights_only) {
  std::vector<SharedTensor> tensors;
  checkpoint::add_tensors(tensors, trainer, State::weight, "");
  if (!weights_only) {
    checkpoint::add_tensors(tensors, trainer, State::first_moment, checkpoint::first_moment);
    checkpoint::add_tensors(tensors, trainer, State::second_moment, checkpoint::second_moment);
    if constexpr (!is_adam(T::policy.optimizer.kind))
      for (const OptimizerBuffer b : optimizer_buffers)
        if (checkpoint::is_in_use(T::policy, b, state.updates()))
          checkpoint::add_tensors(tensors, trainer, b);
  }
  write_together(trainer.communicator(), path, std::move(tensors),
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
  std::vector<WantedTensor> wanted;
  checkpoint::add_wanted(wanted, trainer, State::weight, "");
  checkpoint::add_wanted(wanted, trainer, State::first_moment, checkpoint::first_moment);
  checkpoint::add_wanted(wanted, trainer, State::second_moment, checkpoint::second_moment);
  if constexpr (is_adam(T::policy.optimizer.kind)) {
    load_tensors(file, wanted);
    return {state, ""};
  } else {
    checkpoint::BufferLoad buffers(file, trainer, state.updates());
    buffers.add_wanted(wanted);
    load_tensors(file, wanted);
    return {state, buffers.finish()};
  }
}

}  // namespace ctrain
