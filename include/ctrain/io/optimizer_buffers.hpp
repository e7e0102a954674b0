/// \file  What optimizers keep beside their moments, in checkpoints: as it was, or for other ranks.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/hugging_face.hpp>
#include <ctrain/io/safetensors.hpp>
#include <ctrain/io/together.hpp>
#include <ctrain/memory/sign_traffic.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

// A file has each as one tensor of floats, called "optimizer.KIND." and the name of the parameter:
// those of 1-bit LAMB, which are the same on all ranks, and errors, which are each rank's own:
// worker_error (data ranks, elements padded for them) and server_error (elements padded). On as
// many data ranks a run goes on to the bit. On another number of them the workers' errors are
// replaced by their mean, and the servers' are dealt anew: what all ranks together had lost is
// still sent later, but the bits are those of another run. One rank sends no signs, so that it
// drops errors, and a run of one rank has none.

namespace ctrain::checkpoint {

constexpr const char* prefix_of(OptimizerBuffer b) {
  switch (b) {
    case OptimizerBuffer::lamb_numbers:  // coefficient, last factor, momentum's root mean square at
      return "optimizer.one_bit_lamb.";  // the freeze, the mean of that over all tensors
    case OptimizerBuffer::moving_variance:
      return "optimizer.exp_avg_sq_fresh.";
    case OptimizerBuffer::worker_error:
      return "optimizer.worker_error.";
    default:
      return "optimizer.server_error.";
  }
}

/// Whether a run that has made `updates` goes on with a buffer. Otherwise all of it is still 0.
constexpr bool is_in_use(const Policy& p, OptimizerBuffer b, std::int64_t updates) {
  if (!has_buffer(p, b)) return false;
  if (is_error(b)) return has_sent_signs(p, updates);
  return b == OptimizerBuffer::lamb_numbers || updates >= p.optimizer.compression.freeze_step;
}

/// Calls f(name in a file, part) for what this rank has of these buffers.
template <class T, class F>
void each_part_of(T& trainer, const std::vector<OptimizerBuffer>& buffers, F&& f) {
  if constexpr (!is_adam(T::policy.optimizer.kind))
    for (const OptimizerBuffer buffer : buffers)
      for (const TensorPart& part : trainer.parts(buffer)) f(prefix_of(buffer) + part.name, part);
}

/// Brings the buffers of a file to a trainer that goes on after `updates`.
template <class T> class BufferLoad {
  // auto: nvcc 13 takes a named type for a second initialisation
  static constexpr const auto& policy = T::policy;
  static constexpr int ranks = T::policy.parallel.data;

 public:
  /// Throws Error unless the file has what this run cannot do without. Writes nothing.
  BufferLoad(const SafeTensors& file, T& trainer, std::int64_t updates)
      : file_(file), trainer_(trainer), updates_(updates) {
    has_lamb_ = holds(OptimizerBuffer::lamb_numbers);
    if (is_in_use(policy, OptimizerBuffer::moving_variance, updates)) require_frozen_lamb();
    if (is_in_use(policy, OptimizerBuffer::worker_error, updates) &&
        holds(OptimizerBuffer::worker_error))
      require_errors();
  }

  /// What is read as it stands there.
  std::vector<WantedTensor> wanted() {
    std::vector<WantedTensor> all;
    each_part_of(trainer_, whole(), [&](const std::string& name, const TensorPart& part) {
      all.push_back({name, part.shape});
    });
    return all;
  }

  /// Fills all buffers. Returns what a user should know of it, or nothing.
  std::string read() {
    const std::vector<OptimizerBuffer> here = whole();
    for (const OptimizerBuffer b : optimizer_buffers)
      if (std::ranges::find(here, b) == here.end())
        for (const TensorPart& part : trainer_.parts(b)) std::fill_n(part.data, part.count, 0.0f);
    each_part_of(trainer_, here, [&](const std::string& name, const TensorPart& part) {
      file_.read(name, part.data, std::size_t(part.count));
    });
    if (written_by_ == ranks)
      take_errors();
    else if (written_by_ > 0)
      spread_errors();
    trainer_.weights_changed();
    return notice();
  }

 private:
  bool holds(OptimizerBuffer b) const {
    const std::vector<TensorPart> parts = trainer_.parts(b);
    return !parts.empty() && file_.find(prefix_of(b) + parts.front().name) != nullptr;
  }
  /// Those of 1-bit LAMB that this run goes on with.
  std::vector<OptimizerBuffer> whole() const {
    std::vector<OptimizerBuffer> all;
    for (const OptimizerBuffer b :
         {OptimizerBuffer::lamb_numbers, OptimizerBuffer::moving_variance})
      if (has_lamb_ && is_in_use(policy, b, updates_)) all.push_back(b);
    return all;
  }

  void require_frozen_lamb() const {
    const int freeze_step = policy.optimizer.compression.freeze_step;
    const auto refuse = [&](const std::string& what) {
      throw Error(file_.path().string(),
                  fmt::format("is of step {}, where 1-bit LAMB has frozen its variance (step {}), "
                              "but {}",
                              updates_, freeze_step, what),
                  "Resume from a checkpoint that a run with this freeze_step wrote, or start from "
                  "its weights with --pretrained_model_path");
    };
    if (!has_lamb_) refuse("holds none of the ratios and second variances that it goes on with");
    for (const TensorPart& part : trainer_.parts(OptimizerBuffer::moving_variance))
      if (file_.find(prefix_of(OptimizerBuffer::moving_variance) + part.name) == nullptr)
        refuse("the run that wrote it had not");
  }

  static std::int64_t elements_of(const TensorPart& part) {
    return T::graph.parameters.rows[part.parameter].elements();
  }

  /// All errors are those of one number of ranks, which is remembered.
  void require_errors() {
    for (const OptimizerBuffer b : {OptimizerBuffer::worker_error, OptimizerBuffer::server_error})
      for (const TensorPart& part : trainer_.parts(b)) {
        const std::string name = prefix_of(b) + part.name;
        const TensorInfo* const info = file_.find(name);
        if (info != nullptr && written_by_ == 0 && !info->shape.empty())
          written_by_ = int(std::clamp<std::int64_t>(info->shape[0], 1, 1 << 20));
        const std::int64_t padded = SignLayout{elements_of(part), written_by_}.padded();
        const std::vector<std::int64_t> shape = b == OptimizerBuffer::worker_error
                                                    ? std::vector{std::int64_t{written_by_}, padded}
                                                    : std::vector{padded};
        if (info == nullptr || info->type != StoredType::f32 || info->shape != shape)
          throw Error(file_.path().string(),
                      fmt::format("tensor {} is not {} floats", in_quotes(name), shape_text(shape)),
                      "Resume from another checkpoint of this model");
      }
  }

  void read_some(OptimizerBuffer b, const TensorPart& part, std::int64_t first, float* to,
                 std::int64_t count) const {
    file_.read_some(prefix_of(b) + part.name, first, to, std::size_t(count));
  }
  void take_errors() {
    for (const OptimizerBuffer b : {OptimizerBuffer::worker_error, OptimizerBuffer::server_error})
      for (const TensorPart& part : trainer_.parts(b))
        read_some(b, part, part.first, part.data, part.count);
  }

  /// What padding had lost belongs to nobody.
  void spread_errors() {
    for (const TensorPart& part : trainer_.parts(OptimizerBuffer::worker_error)) {
      const std::int64_t count = elements_of(part),
                         padded = SignLayout{count, written_by_}.padded();
      std::vector<float> row(static_cast<std::size_t>(count));
      std::vector<double> sum(row.size());
      for (int rank = 0; rank < written_by_; ++rank) {
        read_some(OptimizerBuffer::worker_error, part, rank * padded, row.data(), count);
        for (std::size_t i = 0; i < row.size(); ++i) sum[i] += double(row[i]);
      }
      for (std::size_t i = 0; i < row.size(); ++i) part.data[i] = float(sum[i] / written_by_);
    }
    for (const TensorPart& part : trainer_.parts(OptimizerBuffer::server_error)) {
      const std::int64_t count = std::min(part.count, elements_of(part) - part.first);
      if (count > 0) read_some(OptimizerBuffer::server_error, part, part.first, part.data, count);
    }
  }

  std::string notice() const {
    std::string text;
    if (policy.optimizer.kind == OptimizerKind::one_bit_lamb && !has_lamb_)
      text = "holds no averages of 1-bit LAMB's trust ratios: they begin here";
    if (!sends_signs(policy.optimizer.kind) || written_by_ == ranks) return text;
    const auto add = [&](const std::string& more) { text += (text.empty() ? "" : "; ") + more; };
    const std::string there =
        prefix_of(OptimizerBuffer::worker_error) + trainer_.state_dict().front().name;
    if (ranks == 1 && file_.find(there) != nullptr)
      add("what compression had lost on several ranks is dropped, since one sends no signs");
    else if (written_by_ > 0)
      add(fmt::format(
          "what compression had lost on {} data ranks goes on as its mean on {}: not to "
          "the bit",
          written_by_, ranks));
    else if (has_sent_signs(policy, updates_))
      add("nothing in it was lost to compression: errors begin at 0");
    return text;
  }

  const SafeTensors& file_;
  T& trainer_;
  std::int64_t updates_ = 0;
  bool has_lamb_ = false;
  int written_by_ = 0;  // data ranks whose errors are to be read
};

}  // namespace ctrain::checkpoint
