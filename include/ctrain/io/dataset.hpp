/// \file  A data set as flat arrays of token ids, so that a batch is copied, never built.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/jsonl.hpp>
#include <ctrain/io/wordpiece.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// The longest sequence a row key can tell apart (BatchView::row_keys).
inline constexpr int longest_sequence = 512;

/// Encoded samples. Sample i is token_ids[first_token[i], first_token[i + 1]): `[CLS] a [SEP] b
/// [SEP]` or `[CLS] a [SEP]`; its first first_segment[i] tokens have type 0, the rest type 1.
struct Dataset {
  std::string source;                        // the file, for errors
  std::vector<std::int32_t> token_ids;       // of all samples, end to end
  std::vector<std::int64_t> first_token{0};  // (samples + 1)
  std::vector<std::int32_t> first_segment;   // (samples)
  std::vector<std::int32_t> labels;          // (samples) class; -1: none
  std::vector<std::int64_t> ids;             // (samples) as the file has them
  std::int32_t pad_id = 0;

  std::int64_t size() const { return std::int64_t(labels.size()); }
  int length(std::int64_t i) const {
    return int(first_token[std::size_t(i) + 1] - first_token[std::size_t(i)]);
  }
  std::span<const std::int32_t> tokens(std::int64_t i) const {
    return {token_ids.data() + first_token[std::size_t(i)], std::size_t(length(i))};
  }
};

// functions --------------------------------------------------------------------------------------

/// Tokenizes a file, each pair truncated to `max_length` tokens (3 to 512). Labels become classes
/// by `labels`; a null map leaves every sample without a label, which is how a test set is read.
/// Throws Error for an unknown label or a `max_length` out of range.
inline Dataset encode_examples(const ExampleFile& file, const WordPiece& tokenizer,
                               const LabelMap* labels, int max_length) {
  if (max_length < 3 || max_length > longest_sequence)
    throw Error("--max_length", std::to_string(max_length) + " tokens is no length of a pair",
                "Set it from 3 to " + std::to_string(longest_sequence));
  Dataset data;
  data.source = file.path;
  data.pad_id = tokenizer.pad();
  const std::size_t samples = file.examples.size();
  data.first_token.reserve(samples + 1);
  data.first_segment.reserve(samples);
  data.labels.reserve(samples);
  data.ids.reserve(samples);
  for (const Example& example : file.examples) {
    const EncodedLength length =
        tokenizer.encode(example.text_a, example.text_b, max_length, data.token_ids);
    data.first_token.push_back(std::int64_t(data.token_ids.size()));
    data.first_segment.push_back(length.first_segment);
    data.labels.push_back(labels == nullptr ? -1 : labels->index(example, file.path));
    data.ids.push_back(example.id);
  }
  return data;
}

}  // namespace ctrain
