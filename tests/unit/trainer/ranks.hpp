/// \file  Trains a policy on ranks that are threads, and hands out what the run came to.
#pragma once

#include <ctrain/backend/comm/threads.hpp>
#include <ctrain/trainer/trainer.hpp>

#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <omp.h>

namespace ranks {

using namespace ctrain;

/// Micro-batches of random sentences, the same for every number of ranks: batch k of the run has
/// the sentences of seed k. The epoch ends after `batches`.
struct Sentences {
  const Batch& shape;
  int vocabulary = 0;
  int batches = 1 << 30;
  int first = 0, next = 0;

  int open(int count) {
    first = next;
    if (count > batches - next) count = batches - next;
    next += count;
    return count;
  }
  static std::uint32_t draw(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    return philox({a, b, c, 77}, 5, 6).x;
  }
  int length(int batch, int s) const {
    return 5 +
           int(draw(std::uint32_t(batch), std::uint32_t(s), 0) % std::uint32_t(shape.length - 4));
  }
  int rows(int batch, int s) const { return shape.packed() ? length(batch, s) : shape.length; }
  int sentences(int i) const {
    int count = 0;
    for (int all = 0; count < shape.sentence_bound(); ++count)
      if ((all += rows(first + i, count)) > shape.rows()) break;
    return count;
  }
  void fill(int i, BatchView& b, std::uint32_t first_ordinal) const {
    const int batch = first + i;
    b.rows = 0, b.sentences = sentences(i);
    for (int s = 0; s < b.sentences; ++s) {
      const int real = length(batch, s);
      b.first_row[s] = b.rows;
      b.lengths[s] = real;
      b.labels[s] = int(draw(std::uint32_t(batch), std::uint32_t(s), 1) % 2);
      for (int r = 0; r < rows(batch, s); ++r, ++b.rows) {
        const std::uint32_t id = draw(std::uint32_t(batch), std::uint32_t(s), std::uint32_t(r + 2));
        b.token_ids[b.rows] = r < real ? 1 + int(id % std::uint32_t(vocabulary - 1)) : 0;
        b.token_types[b.rows] = r < real && r > real / 2;
        b.positions[b.rows] = r;
        b.row_keys[b.rows] = (first_ordinal + std::uint32_t(s)) * 512 + std::uint32_t(r);
      }
      b.first_row[s + 1] = b.rows;
    }
    const int all = int(std::min<std::int64_t>(round_up(b.rows, shape.row_step()), shape.rows()));
    for (; b.rows < all; ++b.rows)
      b.token_ids[b.rows] = b.token_types[b.rows] = b.positions[b.rows] = 0, b.row_keys[b.rows] = 0;
  }
};

/// Logical tensors: "weight NAME", "first_moment NAME", "second_moment NAME".
using Tensors = std::map<std::string, std::vector<float>>;

struct Outcome {
  Tensors tensors;
  std::vector<double> losses, norms;  // of each step
  StepResult evaluated;               // of all ranks
  bool arena_is_the_plan = true;
  bool ranks_agree = true;  // on what several of them have
  bytes sent = 0;           // by one rank, in all steps
};

/// False where another rank had other values.
template <class T> bool add_parts(T& trainer, Tensors& all) {
  constexpr float missing = -1e30f;
  bool agree = true;
  const std::pair<State, const char*> states[] = {{State::weight, "weight "},
                                                  {State::first_moment, "first_moment "},
                                                  {State::second_moment, "second_moment "}};
  for (const auto& [state, prefix] : states)
    for (const TensorPart& part : trainer.parts(state)) {
      std::int64_t count = 1;
      for (const std::int64_t extent : part.shape) count *= extent;
      std::vector<float>& whole = all[prefix + part.name];
      whole.resize(std::size_t(count), missing);
      for (std::int64_t i = 0; i < part.count; ++i) {
        float& at = whole[std::size_t(part.first + i)];
        agree &= at == missing || at == part.data[i];
        at = part.data[i];
      }
    }
  return agree;
}

/// Calls act(trainer) on all ranks of P at once. Throws what a rank threw.
template <class P, class B = Cpu, class Act> void on_all_ranks(Act&& act) {
  constexpr int count = P::policy.parallel.ranks();
  ThreadHub hub(count);
  std::mutex mutex;
  std::exception_ptr error;
  const auto run = [&](int rank) {
    omp_set_num_threads(1);
    try {
      ctrain::Threads communicator(grid_of(P::policy.parallel), 20.0, hub, rank);
      Trainer<P, B, ctrain::Threads> trainer(communicator, 11);
      act(trainer);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank) threads.emplace_back(run, rank);
  for (std::thread& t : threads) t.join();
  if (error) std::rethrow_exception(error);
}

/// Optimizer steps `first` to `end` of a trainer, or as many as there are batches for.
template <class T> std::vector<StepResult> steps(T& trainer, int first, int end, Sentences feed) {
  std::vector<StepResult> results;
  for (int i = first; i < end; ++i) {
    const StepResult r = trainer.step().train(
        feed, {.seed = 3, .step = i, .learning_rate = 1e-3, .weight_decay = 0.1f, .clip = 1.0f});
    if (r.micro_batches == 0) break;
    results.push_back(r);
  }
  return results;
}

/// `count` optimizer steps of P on all its ranks, and an evaluation.
template <class P, class B = Cpu> Outcome train(int count, int batches = 1 << 30) {
  Outcome outcome;
  std::mutex mutex;
  on_all_ranks<P, B>([&](auto& trainer) {
    const auto results =
        steps(trainer, 0, count, {P::policy.batch, P::policy.model.vocabulary, batches});
    const bytes sent = trainer.communicator().sent();
    Sentences held{P::policy.batch, P::policy.model.vocabulary, 5};
    StepResult evaluated;
    while (trainer.step().evaluate(held, evaluated)) {
    }
    const std::lock_guard lock(mutex);
    outcome.ranks_agree &= add_parts(trainer, outcome.tensors);
    outcome.sent = sent;
    outcome.losses.clear(), outcome.norms.clear();
    for (const StepResult& r : results)
      outcome.losses.push_back(r.loss()), outcome.norms.push_back(r.gradient_norm);
    outcome.evaluated += evaluated;
    outcome.arena_is_the_plan &= trainer.arena().high_water() == trainer.plan().arena();
  });
  return outcome;
}

/// The largest relative difference of two runs' tensors, in the Euclidean norm. Biases of keys are
/// left out: softmax does not feel them, so their gradient is rounding and Adam makes steps of it.
inline double difference(const Tensors& a, const Tensors& b) {
  double worst = a.size() == b.size() ? 0 : 1e9;
  for (const auto& [name, values] : a) {
    const auto other = b.find(name);
    if (other == b.end() || other->second.size() != values.size()) return 1e9;
    if (name.ends_with("self.key.bias")) continue;
    double all = 1e-30, off = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double d = double(values[i]) - double(other->second[i]);
      all += double(values[i]) * double(values[i]), off += d * d;
    }
    worst = std::max(worst, std::sqrt(off / all));
  }
  return worst;
}

}  // namespace ranks
