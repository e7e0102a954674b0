/// \file  BERT's uncased WordPiece tokenizer: text to token ids, pairs to sequences.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/mapped_file.hpp>
#include <ctrain/io/unicode.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// The lines of a vocab.txt as Python reads them in text mode: "\n", "\r\n" and "\r" end a line,
/// nothing else does (U+2028 is text), and empty lines count. The id of a token is its index.
using Vocabulary = std::vector<std::string>;

/// How many tokens of each text stay.
struct KeptTokens {
  int first = 0, second = 0;
  friend constexpr bool operator==(const KeptTokens&, const KeptTokens&) = default;
};

/// What encode() appended.
struct EncodedLength {
  int tokens = 0;         // with [CLS] and [SEP]
  int first_segment = 0;  // those of type 0: [CLS] a [SEP]; the rest, b [SEP], has type 1
  friend constexpr bool operator==(const EncodedLength&, const EncodedLength&) = default;
};

// functions --------------------------------------------------------------------------------------

/// Longest-first truncation of a pair with `first` and `second` tokens to `budget` tokens. `slow`
/// takes one token at a time from the longer text, from the second when they are equal; `fast`
/// gives the odd token of the budget to the longer text, to the second when they are equal.
constexpr KeptTokens kept_tokens(int first, int second, int budget, TokenizerKind kind) {
  if (first + second <= budget) return {first, second};
  const bool first_is_longer = first > second;
  const int shorter = first_is_longer ? second : first;
  if (2 * shorter <= budget)
    return first_is_longer ? KeptTokens{budget - shorter, shorter}
                           : KeptTokens{shorter, budget - shorter};
  const int half = budget / 2;
  const bool odd_to_first = kind == TokenizerKind::slow || first_is_longer;
  return odd_to_first ? KeptTokens{budget - half, half} : KeptTokens{half, budget - half};
}

/// Reads a vocab.txt.
inline Vocabulary read_vocabulary(const std::string& path) {
  const MappedFile file(path);
  Vocabulary tokens;
  for (std::string_view rest = file.text(); !rest.empty();) {
    const std::size_t end = std::min(rest.find_first_of("\r\n"), rest.size());
    const std::string_view token = rest.substr(0, end);
    if (find_not_utf8(token) != std::string_view::npos)
      throw Error(path + ":" + std::to_string(tokens.size() + 1), "not UTF-8 text",
                  "Take the vocab.txt that came with the model, unchanged");
    tokens.emplace_back(token);
    const bool two_bytes = rest.substr(end).starts_with("\r\n");
    rest.remove_prefix(std::min(end + (two_bytes ? 2 : 1), rest.size()));
  }
  return tokens;
}

// the tokenizer ----------------------------------------------------------------------------------

/// BERT's uncased tokenizer with the token ids of transformers' BertTokenizer or BertTokenizerFast.
/// Text becomes words (unicode.hpp); a word becomes the longest token that starts it, then the
/// longest
/// "##" token that goes on, and so forth; a word of more than 100 code points, or one that no
/// tokens make up, is [UNK]. [UNK] [CLS] [SEP] [PAD] [MASK] written out in a text are those tokens.
/// Reading it concurrently is safe.
class WordPiece {
 public:
  /// `path` names the vocabulary in errors. Throws Error if a special token other than [MASK] is
  /// missing, or if the vocabulary has more tokens than a model with `model_vocab_size` rows of
  /// word embeddings. Fewer is usual: 21,128 tokens, 21,248 rows.
  WordPiece(Vocabulary tokens, std::int64_t model_vocab_size, TokenizerKind kind,
            const std::string& path)
      : tokens_(std::move(tokens)), kind_(kind), normalizer_(kind), common_(common_size, -1) {
    for (std::size_t id = 0; id < tokens_.size(); ++id) add(std::int32_t(id));
    unk_ = special("[UNK]", path);
    cls_ = special("[CLS]", path);
    sep_ = special("[SEP]", path);
    pad_ = special("[PAD]", path);
    if (words_.contains(U"[MASK]")) special("[MASK]", path);
    if (size() > model_vocab_size)
      throw Error(
          path,
          "has " + std::to_string(size()) + " tokens, but the model has only " +
              std::to_string(model_vocab_size) + " word embeddings (vocab_size)",
          "Take the vocab.txt that came with the model, or a model whose vocab_size is at least " +
              std::to_string(size()));
  }

  /// Reads the vocabulary from a file.
  WordPiece(const std::string& path, std::int64_t model_vocab_size,
            TokenizerKind kind = TokenizerKind::slow)
      : WordPiece(read_vocabulary(path), model_vocab_size, kind, path) {}

  std::int64_t size() const { return std::int64_t(tokens_.size()); }
  const std::string& token(std::int32_t id) const { return tokens_.at(std::size_t(id)); }
  TokenizerKind kind() const { return kind_; }
  std::int32_t unk() const { return unk_; }
  std::int32_t cls() const { return cls_; }
  std::int32_t sep() const { return sep_; }
  std::int32_t pad() const { return pad_; }

  /// Appends the token ids of a text, without [CLS] and [SEP].
  void tokenize(std::string_view text, std::vector<std::int32_t>& ids) const {
    for (std::size_t open = text.find('['); open != std::string_view::npos;) {
      const auto found = special_at(text.substr(open));
      if (found == specials_.end()) {
        open = text.find('[', open + 1);
        continue;
      }
      tokenize_plain(text.substr(0, open), ids);
      ids.push_back(found->second);
      text.remove_prefix(open + found->first.size());
      open = text.find('[');
    }
    tokenize_plain(text, ids);
  }

  /// Appends `[CLS] a [SEP] b [SEP]`, or `[CLS] a [SEP]` if one of the texts is empty, truncated
  /// longest-first to `max_length` tokens (at least 3).
  EncodedLength encode(std::string_view a, std::string_view b, int max_length,
                       std::vector<std::int32_t>& ids) const {
    const std::size_t start = ids.size();
    const bool pair = !a.empty() && !b.empty();
    ids.push_back(cls_);
    tokenize(a, ids);
    const std::size_t middle = ids.size();
    if (pair) tokenize(b, ids);
    const int budget = max_length - (pair ? 3 : 2);
    const KeptTokens kept =
        kept_tokens(int(middle - start - 1), int(ids.size() - middle), std::max(budget, 0), kind_);

    const auto first_end = ids.begin() + std::ptrdiff_t(start) + 1 + kept.first;
    ids.resize(middle + std::size_t(kept.second));
    ids.erase(first_end, ids.begin() + std::ptrdiff_t(middle));
    ids.insert(first_end, sep_);
    if (pair) ids.push_back(sep_);
    return {int(ids.size() - start), kept.first + 2};
  }

 private:
  static constexpr char32_t common_size = 0x10000;
  static constexpr std::size_t longest_word = 100;  // code points

  struct CodePointHash {
    using is_transparent = void;
    std::size_t operator()(std::u32string_view text) const {
      return std::hash<std::u32string_view>{}(text);
    }
  };
  using TokenMap = std::unordered_map<std::u32string, std::int32_t, CodePointHash, std::equal_to<>>;

  /// Of equal tokens the last wins, as in a Python dictionary.
  void add(std::int32_t id) {
    const std::u32string codes = code_points(tokens_[std::size_t(id)]);
    longest_token_ = std::max(longest_token_, codes.size());
    if (codes.size() == 1 && codes[0] < common_size) common_[codes[0]] = id;
    words_[codes] = id;
    if (codes.starts_with(U"##")) pieces_[codes.substr(2)] = id;
  }

  std::int32_t special(const std::string& token, const std::string& path) {
    const auto found = words_.find(code_points(token));
    if (found == words_.end())
      throw Error(path, "has no line " + token,
                  "Take the vocab.txt that came with the model: one token a line, " + token +
                      " among them");
    specials_.emplace_back(token, found->second);
    return found->second;
  }

  std::vector<std::pair<std::string, std::int32_t>>::const_iterator special_at(
      std::string_view text) const {
    return std::find_if(specials_.begin(), specials_.end(),
                        [&](const auto& special) { return text.starts_with(special.first); });
  }

  void tokenize_plain(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::u32string words;
    words.reserve(2 * text.size());
    normalizer_.append(text, words);
    for (std::size_t start = 0; start < words.size();) {
      const std::size_t end = std::min(words.find(U' ', start), words.size());
      if (end > start) tokenize_word(std::u32string_view(words).substr(start, end - start), ids);
      start = end + 1;
    }
  }

  void tokenize_word(std::u32string_view word, std::vector<std::int32_t>& ids) const {
    if (word.size() == 1 && word[0] < common_size) {
      const std::int32_t id = common_[word[0]];
      ids.push_back(id < 0 ? unk_ : id);
      return;
    }
    const std::size_t before = ids.size();
    bool known = word.size() <= longest_word;
    for (std::size_t start = 0; known && start < word.size();) {
      const std::size_t taken =
          longest_piece(word.substr(start), start == 0 ? words_ : pieces_, ids);
      known = taken > 0;
      start += taken;
    }
    if (known) return;
    ids.resize(before);
    ids.push_back(unk_);
  }

  /// Appends the longest token of `map` that starts `text` and returns its length; 0 if there is
  /// none.
  std::size_t longest_piece(std::u32string_view text, const TokenMap& map,
                            std::vector<std::int32_t>& ids) const {
    for (std::size_t size = std::min(text.size(), longest_token_); size > 0; --size) {
      const auto found = map.find(text.substr(0, size));
      if (found == map.end()) continue;
      ids.push_back(found->second);
      return size;
    }
    return 0;
  }

  Vocabulary tokens_;
  TokenizerKind kind_;
  TextNormalizer normalizer_;
  TokenMap words_, pieces_;           // whole tokens; tokens that begin with "##", without it
  std::vector<std::int32_t> common_;  // id of a one-character token below U+10000; -1: none
  std::vector<std::pair<std::string, std::int32_t>> specials_;
  std::size_t longest_token_ = 0;
  std::int32_t unk_ = 0, cls_ = 0, sep_ = 0, pad_ = 0;
};

// proofs -----------------------------------------------------------------------------------------

static_assert(kept_tokens(10, 10, 5, TokenizerKind::slow) == KeptTokens{3, 2});
static_assert(kept_tokens(10, 10, 5, TokenizerKind::fast) == KeptTokens{2, 3});
static_assert(kept_tokens(7, 9, 9, TokenizerKind::slow) == KeptTokens{5, 4});
static_assert(kept_tokens(7, 9, 9, TokenizerKind::fast) == KeptTokens{4, 5});
static_assert(kept_tokens(20, 3, 10, TokenizerKind::slow) == KeptTokens{7, 3});
static_assert(kept_tokens(20, 3, 10, TokenizerKind::fast) == KeptTokens{7, 3});
static_assert(kept_tokens(100, 30, 125, TokenizerKind::slow) == KeptTokens{95, 30});
static_assert(kept_tokens(100, 30, 125, TokenizerKind::fast) == KeptTokens{95, 30});
static_assert(kept_tokens(200, 200, 125, TokenizerKind::slow) == KeptTokens{63, 62});
static_assert(kept_tokens(200, 200, 125, TokenizerKind::fast) == KeptTokens{62, 63});

}  // namespace ctrain
