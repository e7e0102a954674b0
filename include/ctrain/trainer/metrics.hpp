/// \file  Loss and accuracy of a run: sums that ranks can add, and what they mean.   floor 6: trainer
#pragma once

#include <ctrain/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

namespace ctrain {

/// Mean of the last `Window` values: the loss that a progress line shows.
template <int Window = 20> class RunningMean {
 public:
  void add(double value) {
    values_[seen_ % Window] = value;
    ++seen_;
  }
  /// NaN before the first value.
  double mean() const {
    const std::int64_t count = std::min<std::int64_t>(seen_, Window);
    return std::accumulate(values_, values_ + count, 0.0) / double(count);
  }

 private:
  double values_[Window]{};
  std::int64_t seen_ = 0;
};

/// Mean over samples, exact for unequal batches: add the mean of each batch with its size.
struct SampleMean {
  double sum = 0;
  std::int64_t samples = 0;

  void add(double batch_mean, std::int64_t batch_samples) {
    sum += batch_mean * double(batch_samples);
    samples += batch_samples;
  }
  void add(const SampleMean& other) {
    sum += other.sum;
    samples += other.samples;
  }
  /// NaN without samples.
  double mean() const { return sum / double(samples); }
};

/// Counts of (label, prediction) pairs. A ratio without cases is 0, as in scikit-learn.
class ConfusionMatrix {
 public:
  explicit ConfusionMatrix(int classes)
      : classes_(classes), counts_(std::size_t(classes) * std::size_t(classes)) {}

  int classes() const { return classes_; }
  /// Row-major (label, prediction), so that ranks can sum it element by element.
  std::vector<std::int64_t>& counts() { return counts_; }
  std::int64_t count(int label, int predicted) const { return counts_[index(label, predicted)]; }

  /// A label of -1 means "none" and is not counted.
  void add(int label, int predicted) {
    if (label != -1) ++counts_[index(label, predicted)];
  }

  std::int64_t samples() const {
    return std::accumulate(counts_.begin(), counts_.end(), std::int64_t{0});
  }
  std::int64_t labelled(int label) const {
    std::int64_t sum = 0;
    for (int other = 0; other < classes_; ++other) sum += count(label, other);
    return sum;
  }
  std::int64_t predicted(int label) const {
    std::int64_t sum = 0;
    for (int other = 0; other < classes_; ++other) sum += count(other, label);
    return sum;
  }

  double accuracy() const {
    std::int64_t right = 0;
    for (int label = 0; label < classes_; ++label) right += count(label, label);
    return ratio(right, samples());
  }
  /// Accuracy of always answering the most frequent label: what a model must beat.
  double majority_rate() const {
    std::int64_t most = 0;
    for (int label = 0; label < classes_; ++label) most = std::max(most, labelled(label));
    return ratio(most, samples());
  }
  double precision(int label) const { return ratio(count(label, label), predicted(label)); }
  double recall(int label) const { return ratio(count(label, label), labelled(label)); }
  /// Harmonic mean of precision and recall. For two classes the usual one is f1(1).
  double f1(int label) const {
    return ratio(2 * count(label, label), labelled(label) + predicted(label));
  }
  double macro_f1() const {
    double sum = 0;
    for (int label = 0; label < classes_; ++label) sum += f1(label);
    return sum / double(classes_);
  }

 private:
  static double ratio(std::int64_t part, std::int64_t whole) {
    return whole == 0 ? 0.0 : double(part) / double(whole);
  }
  std::size_t index(int label, int predicted) const {
    if (label < 0 || label >= classes_ || predicted < 0 || predicted >= classes_)
      throw Error("metrics",
                  "label " + std::to_string(label) + " predicted as " + std::to_string(predicted) +
                      ", but there are " + std::to_string(classes_) + " classes",
                  "Make .model.labels the number of labels in the data and recompile");
    return std::size_t(label) * std::size_t(classes_) + std::size_t(predicted);
  }

  int classes_;
  std::vector<std::int64_t> counts_;
};

}  // namespace ctrain
