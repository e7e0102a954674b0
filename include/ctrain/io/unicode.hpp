/// \file  UTF-8, and BERT's basic tokenization of it into words of code points.   floor 7: io
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <utf8proc.h>

namespace ctrain {

// vocabulary -------------------------------------------------------------------------------------

/// Which Hugging Face tokenizer to equal, in their words: `slow` is BertTokenizer of transformers 4
/// (Python), `fast` is BertTokenizerFast, since transformers 5 the only one (Rust). They differ in
/// - truncation of pairs to an odd budget (kept_tokens in wordpiece.hpp),
/// - U+2B820 to U+2B91F, ideographs that `fast` does not set apart (its range starts at U+2B920),
/// - code points that Unicode does not assign: `slow` drops them, `fast` keeps them,
/// - a few hundred marks and punctuation characters younger than the tables of `fast`, which it
///   takes for letters,
/// - the 55 capitals of Unicode 16 and 17, which `fast` lowercases and utf8proc 2.8 does not know.
/// `slow` here is that of Python 3.12, which has the Unicode version of utf8proc 2.8, 15.0.
/// The one lowercases before it takes characters apart, the other after; no character shows it.
enum class TokenizerKind : std::uint8_t { slow, fast };

/// What basic tokenization does with a code point.
enum class CharacterClass : std::uint8_t {
  letter,   // part of a word
  space,    // ends a word
  alone,    // punctuation or ideograph: a word of its own
  dropped,  // controls, U+0000, U+FFFD, marks
};

/// First and last code point of a range.
struct CodeRange {
  char32_t first = 0, last = 0;
  constexpr bool has(char32_t code) const { return first <= code && code <= last; }
};

// functions --------------------------------------------------------------------------------------

/// What next_code_point() returns for bytes that are not UTF-8.
inline constexpr char32_t not_utf8 = 0xffffffffu;

/// The code point at `at`, and moves `at` behind it (by one byte if that is not UTF-8).
inline char32_t next_code_point(std::string_view text, std::size_t& at) {
  const auto first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) return ++at, char32_t(first);
  utf8proc_int32_t code = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at;
  const utf8proc_ssize_t size = utf8proc_iterate(bytes, utf8proc_ssize_t(text.size() - at), &code);
  if (size <= 0) return ++at, not_utf8;
  at += std::size_t(size);
  return char32_t(code);
}

/// The index of the first byte that is not UTF-8; npos if there is none.
inline std::size_t find_not_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    if (next_code_point(text, at) == not_utf8) return start;
  }
  return std::string_view::npos;
}

/// The code points of valid UTF-8.
inline std::u32string code_points(std::string_view text) {
  std::u32string codes;
  for (std::size_t at = 0; at < text.size();) codes.push_back(next_code_point(text, at));
  return codes;
}

/// Whether BERT sets a code point apart as an ideograph. Kana and Hangul are not.
constexpr bool is_ideograph(char32_t code, TokenizerKind kind) {
  constexpr CodeRange ranges[] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF},
                                  {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B820, 0x2CEAF},
                                  {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  if (kind == TokenizerKind::fast && code >= 0x2B820 && code < 0x2B920) return false;
  return std::any_of(std::begin(ranges), std::end(ranges),
                     [&](const CodeRange& range) { return range.has(code); });
}

/// Whether a mark, format or punctuation character is too young for the tables of the fast
/// tokenizer: assigned after Unicode 8. Found by asking tokenizers 0.23 about every code point.
constexpr bool is_young(char32_t code) {
  constexpr CodeRange ranges[] = {
      {0x61d, 0x61d},     {0x7fd, 0x7fd},     {0x890, 0x8e2},     {0x9fd, 0x9fe},
      {0xa76, 0xa76},     {0xafa, 0xaff},     {0xb55, 0xb55},     {0xc04, 0xc04},
      {0xc3c, 0xc3c},     {0xc77, 0xc77},     {0xc84, 0xc84},     {0xd00, 0xd00},
      {0xd3b, 0xd3c},     {0xd81, 0xd81},     {0xeba, 0xeba},     {0xece, 0xece},
      {0x180f, 0x180f},   {0x1885, 0x1886},   {0x1abf, 0x1ace},   {0x1b7d, 0x1b7e},
      {0x1df6, 0x1dfb},   {0x2e43, 0x2e5d},   {0xa82c, 0xa82c},   {0xa8c5, 0xa8c5},
      {0xa8ff, 0xa8ff},   {0xa9bd, 0xa9bd},   {0x10d24, 0x10f89}, {0x11070, 0x11074},
      {0x110c2, 0x110cd}, {0x111cf, 0x111cf}, {0x1123e, 0x11241}, {0x1133b, 0x1133b},
      {0x11438, 0x1145e}, {0x11660, 0x1166c}, {0x116b9, 0x116b9}, {0x1182f, 0x11fff},
      {0x12ff1, 0x13455}, {0x16e97, 0x16f4f}, {0x16fe2, 0x16fe4}, {0x1cf00, 0x1cf46},
      {0x1e000, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1e944, 0x1e95f}};
  return std::any_of(std::begin(ranges), std::end(ranges),
                     [&](const CodeRange& range) { return range.has(code); });
}

/// Whether BERT drops a code point before it looks at it: controls (category C), U+0000, U+FFFD.
inline bool is_dropped(char32_t code, TokenizerKind kind) {
  if (code == not_utf8 || code == 0 || code == 0xFFFD) return true;
  if (code == '\t' || code == '\n' || code == '\r') return false;
  switch (utf8proc_category(utf8proc_int32_t(code))) {
    case UTF8PROC_CATEGORY_CN:
      return kind == TokenizerKind::slow;
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
      return !(kind == TokenizerKind::fast && is_young(code));
    default:
      return false;
  }
}

/// The class of a code point that was taken apart already.
inline CharacterClass class_of(char32_t code, TokenizerKind kind) {
  if (is_dropped(code, kind)) return CharacterClass::dropped;
  if (code == '\t' || code == '\n' || code == '\r') return CharacterClass::space;
  if (is_ideograph(code, kind)) return CharacterClass::alone;
  const bool symbol = (code >= 33 && code <= 47) || (code >= 58 && code <= 64) ||
                      (code >= 91 && code <= 96) || (code >= 123 && code <= 126);
  if (symbol) return CharacterClass::alone;
  const bool fast = kind == TokenizerKind::fast;
  if (fast && code == 0x1734) return CharacterClass::dropped;  // a non-spacing mark in Unicode 8
  if (fast && (code == 0x166D || code == 0x111C9))
    return CharacterClass::alone;  // punctuation there
  if (fast && is_young(code)) return CharacterClass::letter;
  switch (utf8proc_category(utf8proc_int32_t(code))) {
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharacterClass::space;
    case UTF8PROC_CATEGORY_MN:
      return CharacterClass::dropped;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return CharacterClass::alone;
    default:
      return CharacterClass::letter;
  }
}

/// Canonical combining class: 0 starts a group, marks of a group are ordered by it.
inline int combining_class(char32_t code) {
  return code > 0x10FFFF ? 0 : utf8proc_get_property(utf8proc_int32_t(code))->combining_class;
}

/// Appends the canonical decomposition of one code point, unordered.
inline void decompose(char32_t code, std::u32string& out) {
  constexpr utf8proc_ssize_t longest = 8;  // Unicode's canonical decompositions have at most 4
  utf8proc_int32_t parts[longest];
  int boundary = 0;
  const utf8proc_ssize_t count =
      utf8proc_decompose_char(utf8proc_int32_t(code), parts, longest,
                              utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
  for (utf8proc_ssize_t i = 0; i < std::min(count, longest); ++i) out.push_back(char32_t(parts[i]));
}

/// Normalization form D.
inline std::u32string canonical_decomposition(std::u32string_view text) {
  std::u32string out;
  for (const char32_t code : text) decompose(code, out);
  for (std::size_t start = 0; start < out.size();) {
    std::size_t end = start + 1;
    while (end < out.size() && combining_class(out[end]) != 0) ++end;
    std::stable_sort(out.begin() + std::ptrdiff_t(start) + (combining_class(out[start]) == 0),
                     out.begin() + std::ptrdiff_t(end), [](char32_t a, char32_t b) {
                       return combining_class(a) < combining_class(b);
                     });
    start = end;
  }
  return out;
}

// the normalizer ---------------------------------------------------------------------------------

/// Cleans, sets ideographs and punctuation apart, lowercases and strips accents, as BERT's uncased
/// basic tokenizer. Nearly every character of real text is answered by a table over the code points
/// below 65536; utf8proc sees only accents, Hangul, foreign capitals and rare planes.
class TextNormalizer {
 public:
  explicit TextNormalizer(TokenizerKind kind) : kind_(kind), plans_(table_size) {
    for (char32_t code = 0; code < table_size; ++code) plans_[code] = plan_of(code);
  }

  /// Appends the words of `text` to `out`, with spaces between, before and after them. Bytes that
  /// are not UTF-8 are dropped, as U+FFFD would be.
  void append(std::string_view text, std::u32string& out) const {
    const std::size_t start = out.size();
    bool composed = false;
    for (std::size_t at = 0; at < text.size();) {
      const char32_t code = next_code_point(text, at);
      const Plan plan = code < table_size ? plans_[code] : plan_of(code);
      composed |= plan.composed;
      append(plan.kind, code >= 'A' && code <= 'Z' ? code + ('a' - 'A') : code, out);
    }
    if (composed) recompose(start, out);
  }

 private:
  static constexpr char32_t table_size = 0x10000;

  struct Plan {
    CharacterClass kind = CharacterClass::letter;
    bool composed = false;  // to be taken apart, stripped and lowercased once the text is known
  };

  Plan plan_of(char32_t code) const {
    if (is_dropped(code, kind_)) return {CharacterClass::dropped, false};
    const CharacterClass kind = class_of(code, kind_);
    if (code < 0x80) return {kind, false};
    if (kind == CharacterClass::dropped)
      return {CharacterClass::letter, true};  // a mark, ordered first
    std::u32string parts;
    decompose(code, parts);
    const bool itself = parts == std::u32string_view(&code, 1) && lowercase(code) == code;
    return {kind, !itself || combining_class(code) != 0};
  }

  static char32_t lowercase(char32_t code) {
    return char32_t(utf8proc_tolower(utf8proc_int32_t(code)));
  }

  static void append(CharacterClass kind, char32_t code, std::u32string& out) {
    switch (kind) {
      case CharacterClass::letter:
        out.push_back(code);
        break;
      case CharacterClass::space:
        out.push_back(U' ');
        break;
      case CharacterClass::alone:
        out.append({U' ', code, U' '});
        break;
      case CharacterClass::dropped:
        break;
    }
  }

  /// Takes everything from `start` on apart, drops the marks and lowercases the rest.
  void recompose(std::size_t start, std::u32string& out) const {
    const std::u32string parts = canonical_decomposition(std::u32string_view(out).substr(start));
    out.resize(start);
    for (const char32_t code : parts) append(class_of(code, kind_), lowercase(code), out);
  }

  TokenizerKind kind_;
  std::vector<Plan> plans_;
};

}  // namespace ctrain
