/// \file  Which samples make which micro-batch, and their copy into the batch buffers.   floor 7: io
#pragma once

#include <ctrain/backend/batch.hpp>
#include <ctrain/core/error.hpp>
#include <ctrain/core/philox.hpp>
#include <ctrain/core/units.hpp>
#include <ctrain/io/dataset.hpp>
#include <ctrain/policy/policy.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// Where a sampler stands. Saved with a checkpoint, it continues the epoch with the next sample.
struct SamplerPosition {
  std::int64_t epoch = 0;
  std::int64_t batch = 0;   // micro-batches of the epoch already taken
  std::int64_t sample = 0;  // samples already taken
  friend constexpr bool operator==(const SamplerPosition&, const SamplerPosition&) = default;
};

// functions --------------------------------------------------------------------------------------

/// A number below `bound`, from 64 random bits: the high part of their product.
constexpr std::uint32_t scale_bits(std::uint64_t bits, std::uint32_t bound) {
  const std::uint64_t high = (bits >> 32) * bound, low = (bits & 0xffffffffu) * bound;
  return std::uint32_t((high + (low >> 32)) >> 32);
}

/// Fills `order` with 0 … size - 1, shuffled (Fisher-Yates) by Philox words of (seed, epoch,
/// place): the same on every platform and every rank. The third counter word keeps the draws apart
/// from dropout's, where it is a layer.
inline void shuffle(std::span<std::int32_t> order, std::uint64_t seed, std::int64_t epoch) {
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t left = order.size(); left > 1; --left) {
    const Words words = philox({std::uint32_t(left), std::uint32_t(epoch), 0xffffffffu,
                                std::uint32_t(std::uint64_t(epoch) >> 32)},
                               std::uint32_t(seed), std::uint32_t(seed >> 32));
    const std::uint64_t bits = std::uint64_t{words.x} << 32 | words.y;
    std::swap(order[left - 1], order[scale_bits(bits, std::uint32_t(left))]);
  }
}

// the sampler ------------------------------------------------------------------------------------

/// Cuts an epoch into micro-batches of the policy's shape. Padded: `sentences` samples, each in
/// `length` rows. Packed: samples in order, end to end, until the next would not fit into
/// `packed_tokens` rows or would be one sentence too many. The cut depends on the data, the seed,
/// the epoch and the shape only, so all ranks make the same micro-batches; each fills those that
/// are its own, no sample counts twice, and a step of many ranks is that of one. (PyTorch's
/// DistributedSampler deals samples instead, and repeats some so that all ranks get as many.)
class Sampler {
 public:
  /// A `seed` shuffles every epoch anew; without one the order is the file's. Keeps a reference to
  /// `data`. Throws Error if there is no sample or a sample does not fit.
  Sampler(const Dataset& data, const Batch& shape, std::optional<std::uint64_t> seed = {})
      : data_(data), shape_(shape), seed_(seed) {
    check_shape();
    check_samples();
    start({});
  }

  /// Samples of one epoch.
  std::int64_t samples() const { return data_.size(); }

  /// Micro-batches of an epoch.
  std::int64_t batches(std::int64_t epoch) const {
    std::vector<std::int32_t> order(std::size_t(data_.size()));
    arrange(epoch, order);
    return count_cuts(order, 0);
  }

  /// Goes to a position: `{epoch}` for the start of an epoch, or where a checkpoint stood. If
  /// `batch.sample` is no cut of the shape, because the checkpoint had another one, the rest of the
  /// epoch is cut anew from that sample.
  void start(SamplerPosition at) {
    if (at.epoch < 0 || at.batch < 0 || at.sample < 0 || at.sample > samples())
      throw Error(data_.source,
                  "the saved position (epoch " + std::to_string(at.epoch) + ", sample " +
                      std::to_string(at.sample) + ") is outside of its " +
                      std::to_string(samples()) + " samples",
                  "Resume with the training file that the checkpoint was made with");
    order_.resize(std::size_t(data_.size()));
    arrange(at.epoch, order_);
    position_ = at;
    opened_.clear();
    total_ = at.batch + count_cuts(order_, at.sample);
  }

  /// The same under another seed, which a resumed run takes over from its checkpoint.
  void start(SamplerPosition at, std::uint64_t seed) {
    seed_ = seed;
    start(at);
  }

  SamplerPosition position() const { return position_; }

  /// Micro-batches of the present epoch.
  std::int64_t batches() const { return total_; }

  /// Takes the next `count` micro-batches of the epoch, or as many as there are; returns how many.
  int open(int count) {
    opened_.clear();
    for (int i = 0; i < count && position_.batch < total_; ++i, ++position_.batch) {
      const std::int64_t end = next_cut(order_, position_.sample);
      opened_.push_back({position_.sample, end});
      position_.sample = end;
    }
    return int(opened_.size());
  }
  /// Dataset indices of the samples of the i-th micro-batch opened.
  std::span<const std::int32_t> samples(int i) const {
    const Cut& cut = opened_[std::size_t(i)];
    return std::span(order_).subspan(std::size_t(cut.begin), std::size_t(cut.end - cut.begin));
  }
  int sentences(int i) const { return int(samples(i).size()); }

  /// Writes the i-th micro-batch opened into the buffers of `batch`. `first_ordinal` is the number
  /// of sentences in the earlier micro-batches of the same optimizer step. The buffers hold the
  /// policy's bounds; `rows` becomes a multiple of the shape's row_step(), or the bound itself.
  void fill(int i, BatchView& batch, std::uint32_t first_ordinal) const {
    if (std::int64_t{first_ordinal} + sentences(i) > most_sentences)
      throw Error(
          "accumulation",
          "one optimizer step has more than " + std::to_string(most_sentences) + " sentences",
          "Accumulate fewer micro-batches");
    batch.sentences = 0;
    batch.rows = 0;
    for (const std::int32_t sample : samples(i)) append(batch, sample, first_ordinal);
    batch.first_row[batch.sentences] = batch.rows;
    fill_up(batch);
  }
  /// Opens and writes one; false, and nothing written, when the epoch is over.
  bool fill(BatchView& batch, std::uint32_t first_ordinal = 0) {
    if (open(1) == 0) return false;
    fill(0, batch, first_ordinal);
    return true;
  }

 private:
  static constexpr std::int64_t most_sentences = (std::int64_t{1} << 32) / longest_sequence;

  /// Samples of a micro-batch, by their places in the epoch's order.
  struct Cut {
    std::int64_t begin = 0, end = 0;
  };

  void check_shape() const {
    const bool good = shape_.length > 0 && shape_.length <= longest_sequence &&
                      shape_.packed_tokens >= 0 && shape_.sentences >= 0 &&
                      std::int64_t{shape_.sentences} * shape_.length <= INT32_MAX &&
                      shape_.rows() > 0;
    if (!good)
      throw Error("policy.batch", "no micro-batch has this shape",
                  "Set length from 1 to " + std::to_string(longest_sequence) +
                      ", and packed_tokens or sentences above 0");
  }

  int longest_sample() const {
    return shape_.packed() ? std::min(shape_.packed_tokens, longest_sequence) : shape_.length;
  }

  void check_samples() const {
    if (data_.size() == 0)
      throw Error(data_.source, "no samples", "Give a file with at least one line");
    if (data_.size() > INT32_MAX)
      throw Error(data_.source, "more than " + std::to_string(INT32_MAX) + " samples",
                  "Split the file");
    for (std::int64_t i = 0; i < data_.size(); ++i)
      if (data_.length(i) > longest_sample())
        throw Error(place_of(data_.source, i + 1),
                    std::to_string(data_.length(i)) +
                        " tokens, but a micro-batch holds samples of " +
                        std::to_string(longest_sample()),
                    "Encode with max_length " + std::to_string(longest_sample()) + " or less");
  }

  // order and cuts

  void arrange(std::int64_t epoch, std::span<std::int32_t> order) const {
    if (seed_)
      shuffle(order, *seed_, epoch);
    else
      std::iota(order.begin(), order.end(), 0);
  }

  /// Where the micro-batch that starts with the `begin`th sample ends.
  std::int64_t next_cut(std::span<const std::int32_t> order, std::int64_t begin) const {
    const std::int64_t most = std::min(samples(), begin + shape_.sentence_bound());
    if (!shape_.packed()) return most;
    std::int64_t end = begin;
    for (std::int64_t rows = 0; end < most; ++end) {
      rows += data_.length(order[std::size_t(end)]);
      if (rows > shape_.packed_tokens) break;
    }
    return end;
  }

  std::int64_t count_cuts(std::span<const std::int32_t> order, std::int64_t begin) const {
    std::int64_t count = 0;
    for (; begin < samples(); begin = next_cut(order, begin)) ++count;
    return count;
  }

  // the copy

  /// Appends one sample as the next sentence; in a padded batch, with its padding.
  void append(BatchView& batch, std::int64_t sample, std::uint32_t first_ordinal) const {
    const std::span<const std::int32_t> tokens = data_.tokens(sample);
    const int length = int(tokens.size());
    const int rows = shape_.packed() ? length : shape_.length;
    const int first_segment = data_.first_segment[std::size_t(sample)];
    const std::uint32_t key = (first_ordinal + std::uint32_t(batch.sentences)) * longest_sequence;
    for (int i = 0; i < rows; ++i) {
      const int row = batch.rows + i;
      batch.token_ids[row] = i < length ? tokens[std::size_t(i)] : data_.pad_id;
      batch.token_types[row] = i >= first_segment && i < length ? 1 : 0;
      batch.positions[row] = i;
      batch.row_keys[row] = key + std::uint32_t(i);
    }
    batch.first_row[batch.sentences] = batch.rows;
    batch.lengths[batch.sentences] = length;
    batch.labels[batch.sentences] = data_.labels[std::size_t(sample)];
    batch.rows += rows;
    ++batch.sentences;
  }

  /// Zeroes rows after the last sentence up to a shape that products are prepared for.
  void fill_up(BatchView& batch) const {
    const auto rows = std::int32_t(
        std::min(round_up(batch.rows, shape_.row_step()), std::int64_t{shape_.rows()}));
    const auto zero = [&](auto* column) { std::fill(column + batch.rows, column + rows, 0); };
    zero(batch.token_ids);
    zero(batch.token_types);
    zero(batch.positions);
    zero(batch.row_keys);
    batch.rows = rows;
  }

  const Dataset& data_;
  Batch shape_;
  std::optional<std::uint64_t> seed_;
  std::vector<std::int32_t> order_;  // of the epoch
  std::vector<Cut> opened_;
  SamplerPosition position_;
  std::int64_t total_ = 0;
};

}  // namespace ctrain
