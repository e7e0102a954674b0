/// \file  What every file of weights offers: names, shapes, and values as float.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/core/floating.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ctrain {

/// Element types found in files. The order is that of the safetensors library, whose writer puts
/// the largest first.
enum class StoredType : std::uint8_t { boolean, u8, f16, bf16, i32, f32, f64, i64 };

struct StoredTypeName {
  StoredType type;
  std::string_view name;
  int size;
};

inline constexpr StoredTypeName stored_types[] = {
    {StoredType::boolean, "BOOL", 1}, {StoredType::u8, "U8", 1},   {StoredType::f16, "F16", 2},
    {StoredType::bf16, "BF16", 2},    {StoredType::i32, "I32", 4}, {StoredType::f32, "F32", 4},
    {StoredType::f64, "F64", 8},      {StoredType::i64, "I64", 8},
};

constexpr int size_of(StoredType type) {
  return stored_types[int(type)].size;
}
constexpr std::string_view name_of(StoredType type) {
  return stored_types[int(type)].name;
}

/// The type with this name in a safetensors header, if it is one that ctrain reads.
constexpr std::optional<StoredType> stored_type_named(std::string_view name) {
  for (const StoredTypeName& row : stored_types)
    if (row.name == name) return row.type;
  return std::nullopt;
}

struct TensorInfo {
  StoredType type = StoredType::f32;
  std::vector<std::int64_t> shape;  // row-major; empty: one number
};

/// Product of the extents; nothing if one is negative or the product leaves 63 bits.
constexpr std::optional<std::int64_t> element_count(std::span<const std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(count, extent, &count)) return std::nullopt;
  return count;
}

/// Bytes of a tensor; nothing if they leave 63 bits.
constexpr std::optional<std::int64_t> byte_count(StoredType type,
                                                 std::span<const std::int64_t> shape) {
  const std::optional<std::int64_t> count = element_count(shape);
  std::int64_t bytes = 0;
  if (!count || __builtin_mul_overflow(*count, std::int64_t{size_of(type)}, &bytes))
    return std::nullopt;
  return bytes;
}

/// Text from a file, made fit for one line of a message: control characters escaped, length
/// bounded.
inline std::string in_quotes(std::string_view text) {
  constexpr std::size_t longest = 160;
  std::string out = "\"";
  for (const char c : text.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    constexpr const char* digits = "0123456789abcdef";
    if (byte < 0x20 || byte == 0x7f)
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    else
      out += c;
  }
  return out + (text.size() > longest ? "...\"" : "\"");
}

/// "[2, 3]"
inline std::string shape_text(std::span<const std::int64_t> shape) {
  std::string out = "[";
  for (const std::int64_t extent : shape)
    out += (out.size() > 1 ? ", " : "") + std::to_string(extent);
  return out + "]";
}

/// A file, or several, holding named tensors. What is open stays open for the object's life.
/// Not for use by several threads at once.
class TensorSource {
 public:
  TensorSource() = default;
  TensorSource(const TensorSource&) = delete;
  TensorSource& operator=(const TensorSource&) = delete;
  virtual ~TensorSource() = default;

  /// Where the tensors lie, for messages.
  virtual const std::filesystem::path& path() const = 0;
  virtual const std::vector<std::string>& names() const = 0;
  /// nullptr: there is no such tensor.
  virtual const TensorInfo* find(std::string_view name) const = 0;
  /// Widens all values of a tensor (row-major) into destination[0, count). Exact. Throws Error when
  /// the tensor is absent, is not F32, F16 or BF16, or has another number of elements.
  void read(std::string_view name, float* destination, std::size_t count) const;
  /// Values [first, first + count) of a tensor that read() would take.
  virtual void read_some(std::string_view name, std::int64_t first, float* destination,
                         std::size_t count) const = 0;
};

/// Whether read() can widen the type to float without loss.
constexpr bool widens_to_float(StoredType type) {
  return type == StoredType::f32 || type == StoredType::f16 || type == StoredType::bf16;
}

/// Throws unless read() can deliver: a floating type of at most 32 bits, `count` elements.
inline void check_readable(const std::filesystem::path& path, std::string_view name,
                           const TensorInfo* info, std::size_t count) {
  if (info == nullptr)
    throw Error(path.string(), "there is no tensor " + in_quotes(name),
                "Use the file of the model that the policy describes");
  if (!widens_to_float(info->type))
    throw Error(path.string(),
                "tensor " + in_quotes(name) + " is stored as " + std::string(name_of(info->type)),
                "Save it as F32, F16 or BF16");
  if (std::uint64_t(element_count(info->shape).value_or(-1)) != count)
    throw Error(path.string(),
                "tensor " + in_quotes(name) + " has shape " + shape_text(info->shape) +
                    ", but the model needs " + std::to_string(count) + " elements",
                "Use the file of the model that the policy describes");
}

inline void TensorSource::read(std::string_view name, float* destination, std::size_t count) const {
  check_readable(path(), name, find(name), count);
  read_some(name, 0, destination, count);
}

template <class Narrow>
void widen_each(float* destination, const std::byte* source, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    Narrow value;
    std::memcpy(&value, source + i * sizeof(Narrow), sizeof(Narrow));  // may be unaligned
    destination[i] = float(value);
  }
}

/// Widens `count` little-endian F32, F16 or BF16 values, at any alignment. Exact.
inline void widen(float* destination, const std::byte* source, std::size_t count, StoredType type) {
  switch (type) {
    case StoredType::f16:
      return widen_each<fp16>(destination, source, count);
    case StoredType::bf16:
      return widen_each<bf16>(destination, source, count);
    default:
      if (count > 0) std::memcpy(destination, source, count * sizeof(float));
  }
}

/// A checkout without its large files has a few lines of text in their place: say so, rather than
/// call the file damaged.
inline void reject_git_lfs_pointer(const std::filesystem::path& path, std::string_view beginning) {
  if (beginning.starts_with("version https://git-lfs.github.com/"))
    throw Error(path.string(), "is a git-lfs pointer, not the weights",
                "Run 'git lfs pull' in that directory, or download the file itself");
}

static_assert(stored_type_named("BF16") == StoredType::bf16 && !stored_type_named("F8_E4M3"));
static_assert([] {
  for (int i = 0; i < 8; ++i)
    if (int(stored_types[i].type) != i) return false;
  return true;
}());

}  // namespace ctrain
