/// \file  Steps that a device runs without its host: what is staged for them, and what comes back.   floor 6: trainer
#pragma once

#include <ctrain/backend/backend.hpp>
#include <ctrain/backend/batch.hpp>
#include <ctrain/core/units.hpp>
#include <ctrain/memory/lifetimes.hpp>
#include <ctrain/policy/policy.hpp>
#include <ctrain/trainer/decision.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace ctrain {

/// Fills a micro-batch up to the policy's shape, so that every step has the same calls: rows of no
/// sentence, and sentences of length 0 without label, which add 0 to every loss and gradient. An
/// empty view becomes a micro-batch that adds nothing.
inline void fill_up(BatchView& batch, const Batch& shape) {
  const std::int32_t end = batch.sentences > 0 ? batch.first_row[batch.sentences] : 0;
  const std::int32_t rows = shape.rows(), sentences = shape.sentence_bound();
  const auto fill = [](auto* column, std::int32_t from, std::int32_t to, std::int32_t value) {
    std::fill(column + from, column + to, value);
  };
  for (std::int32_t* column : {batch.token_ids, batch.token_types, batch.positions})
    fill(column, batch.rows, rows, 0);
  fill(batch.row_keys, batch.rows, rows + 1, 0);  // one that a sentence of length 0 begins with
  fill(batch.first_row, batch.sentences, sentences + 1, end);
  fill(batch.lengths, batch.sentences, sentences, 0);
  fill(batch.labels, batch.sentences, sentences, -1);
  batch.rows = rows, batch.sentences = sentences;
}

/// Nothing, with a backend whose host walks every step.
template <class B> struct StepsAhead {
  StepsAhead(B&, bytes) {}
};

/// The steps that B has been given and the host has not looked at: their inputs, as long as one of
/// them may be asked for again, and the state that each leaves.
template <Replays B> class StepsAhead<B> {
 public:
  /// `input`: bytes of one step's. Takes 64 times as much, or what 64 MiB hold of it.
  StepsAhead(B& backend, bytes input)
      : backend_(backend),
        input_(input),
        most_(int(std::clamp(64 * MiB / each(), bytes{2}, bytes{64}))),
        staging_(backend.staging(most_ * each())) {}

  int count() const { return count_; }
  bool is_full() const { return count_ == most_; }
  void advance() { ++count_; }
  void clear() { count_ = 0; }

  /// That of the i-th step; of the next one for i = count().
  std::byte* input(int i) { return staging_.data() + i * each(); }
  StepState* state(int i) { return reinterpret_cast<StepState*>(input(i) + input_); }
  StepNumbers* numbers(int i) {
    return reinterpret_cast<StepNumbers*>(input(i) + input_ - Split::numbers);
  }

  /// Runs a step's calls: as `walk` makes them the first time, when libraries load and prepare what
  /// they need; recorded, and replayed from then on.
  template <class Walk> void run(Walk&& walk) {
    if (!has_walked_) {
      walk();
      has_walked_ = true;
      return;
    }
    if (!recording_) recording_.emplace(backend_.capture(walk));
    backend_.replay(*recording_);
  }
  /// Nothing is left of the recording once what is under way of it has ended.
  void forget() { recording_.reset(); }

 private:
  bytes each() const { return round_up(input_ + Split::state, tensor_alignment); }

  B& backend_;
  bytes input_;
  int most_;
  typename B::Staging staging_;
  int count_ = 0;
  bool has_walked_ = false;
  std::optional<typename B::Recording> recording_;
};

}  // namespace ctrain
