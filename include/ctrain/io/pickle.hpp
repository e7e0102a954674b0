/// \file  Reads a pickled state dict as data: nothing in it is ever called.   floor 7: io
#pragma once

#include <ctrain/core/error.hpp>
#include <ctrain/io/tensor_source.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ctrain {

/// A tensor as a pickle describes it: a strided window into a storage, which is a file of its own.
struct PickledTensor {
  TensorInfo info;
  std::vector<std::int64_t> strides;  // elements; not negative, may be 0
  std::int64_t offset = 0;            // elements
  std::string storage;                // key
  std::int64_t storage_elements = 0;
  std::int64_t last = -1;  // greatest element index that is used; -1: the tensor is empty
};

struct NamedPickledTensor {
  std::string name;
  PickledTensor tensor;
};

/// What a pickle may cost. A state dict of 400 tensors has 20 kB and 10,000 opcodes.
inline constexpr std::size_t pickle_longest = std::size_t{16} << 20;
inline constexpr int pickle_most_opcodes = 1'000'000;
inline constexpr std::size_t pickle_most_memos = 1'000'000;
inline constexpr std::size_t pickle_deepest = 100;
inline constexpr std::size_t pickle_most_dimensions = 16;

/// The Python names that a dict of tensors may mention. They are compared, never looked up.
enum class PickleGlobal : std::uint8_t {
  ordered_dict,
  rebuild_tensor,
  rebuild_parameter,
  rebuild_from_type,
  tensor_class,
  storage_class
};

struct PickleGlobalRow {
  std::string_view name;
  PickleGlobal global;
  StoredType type = StoredType::f32;
};

inline constexpr PickleGlobalRow pickle_globals[] = {
    {"collections.OrderedDict", PickleGlobal::ordered_dict},
    {"torch._utils._rebuild_tensor_v2", PickleGlobal::rebuild_tensor},
    {"torch._utils._rebuild_parameter", PickleGlobal::rebuild_parameter},
    {"torch._tensor._rebuild_from_type_v2", PickleGlobal::rebuild_from_type},
    {"torch.Tensor", PickleGlobal::tensor_class},
    {"torch.nn.parameter.Parameter", PickleGlobal::tensor_class},
    {"torch.nn.parameter.Buffer", PickleGlobal::tensor_class},
    {"torch.DoubleStorage", PickleGlobal::storage_class, StoredType::f64},
    {"torch.FloatStorage", PickleGlobal::storage_class, StoredType::f32},
    {"torch.HalfStorage", PickleGlobal::storage_class, StoredType::f16},
    {"torch.BFloat16Storage", PickleGlobal::storage_class, StoredType::bf16},
    {"torch.LongStorage", PickleGlobal::storage_class, StoredType::i64},
    {"torch.IntStorage", PickleGlobal::storage_class, StoredType::i32},
    {"torch.ByteStorage", PickleGlobal::storage_class, StoredType::u8},
    {"torch.BoolStorage", PickleGlobal::storage_class, StoredType::boolean},
};

/// Interprets the opcodes that torch.save writes (pickle protocol 2) for a dict of tensors. Every
/// object becomes a row in one list and is referred to by index, so nothing recurses, and aliases
/// or cycles are harmless. Names of Python objects are compared with an allow-list and never looked
/// up; REDUCE of one of them makes a row. Everything else is an Error.
class StateDictPickle {
 public:
  StateDictPickle(std::string place, std::string pickle)
      : place_(std::move(place)), input_(std::move(pickle)) {
    if (input_.size() > pickle_longest)
      fail("its pickle has " + std::to_string(input_.size()) + " bytes, more than " +
           std::to_string(pickle_longest));
  }

  /// The named tensors of the dict, in its order. A dict that holds a dict under "state_dict" (a
  /// Lightning checkpoint) stands for that one. Values that are not tensors are passed over.
  std::vector<NamedPickledTensor> read() {
    const int root = run();
    const int inner = find_in_dict(root, "state_dict");
    return tensors_of(inner >= 0 && rows_[inner].kind == Kind::dict ? inner : root);
  }

 private:
  enum class Kind : std::uint8_t {
    none,
    boolean,
    integer,
    real,
    text,
    tuple,
    list,
    dict,     // items: key, value, key, value ...
    global,   // number: a PickleGlobal
    storage,  // text: key; number: elements; type
    tensor    // number: index into tensors_
  };
  struct Row {
    Kind kind = Kind::none;
    StoredType type = StoredType::f32;
    std::int64_t number = 0;
    std::string text{};
    std::vector<int> items{};
  };

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(place_, what,
                "Use a file that torch.save wrote from model.state_dict(), or model.safetensors");
  }
  [[noreturn]] void damaged(const std::string& what) const {
    fail("its pickle is damaged at byte " + std::to_string(at_) + ": " + what);
  }

  // ---- input ----

  std::string_view take(std::size_t size) {
    if (size > input_.size() - at_) damaged("it ends too early");
    const std::string_view bytes = std::string_view(input_).substr(at_, size);
    at_ += size;
    return bytes;
  }
  template <class Number> Number take_number() {
    Number value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view take_line() {
    const std::size_t end = input_.find('\n', at_);
    if (end == std::string::npos) damaged("it ends too early");
    const std::string_view line = take(end - at_);
    take(1);
    return line;
  }

  // ---- stack ----

  void push(Row row) {
    rows_.push_back(std::move(row));
    stack_.push_back(int(rows_.size()) - 1);
  }
  void push(Kind kind, std::int64_t number = 0) { push(Row{.kind = kind, .number = number}); }
  /// The top of the stack, above the last mark.
  int top() const {
    if (stack_.size() <= floor()) damaged("an empty stack");
    return stack_.back();
  }
  int pop() {
    const int row = top();
    stack_.pop_back();
    return row;
  }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  /// Everything above the last mark, and removes the mark.
  std::vector<int> pop_mark() {
    if (marks_.empty()) damaged("no mark");
    std::vector<int> items(stack_.begin() + std::ptrdiff_t(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  void push_tuple(std::size_t size) {
    std::vector<int> items(size);
    for (std::size_t i = size; i-- > 0;) items[i] = pop();
    push(Row{.kind = Kind::tuple, .items = std::move(items)});
  }
  void append(Kind kind, const std::vector<int>& items) {
    Row& target = rows_[top()];
    if (target.kind != kind) damaged("items for something that holds none");
    if (kind == Kind::dict && items.size() % 2 != 0) damaged("a key without a value");
    target.items.insert(target.items.end(), items.begin(), items.end());
  }

  // ---- memo ----

  void memorize(std::size_t slot) {
    if (slot >= pickle_most_memos) damaged("memo " + std::to_string(slot) + " is beyond the limit");
    if (slot >= memo_.size()) memo_.resize(slot + 1, -1);
    memo_[slot] = top();
  }
  void recall(std::size_t slot) {
    if (slot >= memo_.size() || memo_[slot] < 0) damaged("an unset memo");
    stack_.push_back(memo_[slot]);
  }

  // ---- opcodes ----

  /// Runs to STOP; the row that was left on the stack.
  int run() {
    for (int count = 0; count < pickle_most_opcodes; ++count) {
      const auto opcode = std::uint8_t(take(1)[0]);
      if (opcode == '.') return pop();
      step(opcode);
    }
    fail("its pickle has more than " + std::to_string(pickle_most_opcodes) + " opcodes");
  }

  void step(std::uint8_t opcode) {
    switch (opcode) {
      case 0x80:  // PROTO
        if (const int protocol = take_number<std::uint8_t>(); protocol != 2)
          fail("its pickle has protocol " + std::to_string(protocol) + " instead of 2");
        return;
      case 'c':  // GLOBAL
        return push_global();
      case 'q':  // BINPUT
        return memorize(take_number<std::uint8_t>());
      case 'r':  // LONG_BINPUT
        return memorize(take_number<std::uint32_t>());
      case 'h':  // BINGET
        return recall(take_number<std::uint8_t>());
      case 'j':  // LONG_BINGET
        return recall(take_number<std::uint32_t>());
      case '(':  // MARK
        if (marks_.size() == pickle_deepest)
          fail("its pickle nests deeper than " + std::to_string(pickle_deepest));
        return marks_.push_back(stack_.size());
      case 't':  // TUPLE
        return push(Row{.kind = Kind::tuple, .items = pop_mark()});
      case ')':  // EMPTY_TUPLE
        return push_tuple(0);
      case 0x85:  // TUPLE1
        return push_tuple(1);
      case 0x86:  // TUPLE2
        return push_tuple(2);
      case 0x87:  // TUPLE3
        return push_tuple(3);
      case '}':  // EMPTY_DICT
        return push(Kind::dict);
      case ']':  // EMPTY_LIST
        return push(Kind::list);
      case 's': {  // SETITEM
        const int value = pop(), key = pop();
        return append(Kind::dict, {key, value});
      }
      case 'u': {  // SETITEMS
        const std::vector<int> items = pop_mark();
        return append(Kind::dict, items);
      }
      case 'a': {  // APPEND
        const int item = pop();
        return append(Kind::list, {item});
      }
      case 'e': {  // APPENDS
        const std::vector<int> items = pop_mark();
        return append(Kind::list, items);
      }
      default:
        return step_scalar(opcode);
    }
  }

  void step_scalar(std::uint8_t opcode) {
    switch (opcode) {
      case 'X':  // BINUNICODE
        return push(
            Row{.kind = Kind::text, .text = std::string(take(take_number<std::uint32_t>()))});
      case 'J':  // BININT
        return push(Kind::integer, take_number<std::int32_t>());
      case 'K':  // BININT1
        return push(Kind::integer, take_number<std::uint8_t>());
      case 'M':  // BININT2
        return push(Kind::integer, take_number<std::uint16_t>());
      case 0x8a:  // LONG1
        return push_long(take(take_number<std::uint8_t>()));
      case 'G':  // BINFLOAT: no tensor needs its value
        take(8);
        return push(Kind::real);
      case 0x88:  // NEWTRUE
        return push(Kind::boolean, 1);
      case 0x89:  // NEWFALSE
        return push(Kind::boolean, 0);
      case 'N':  // NONE
        return push(Kind::none);
      case 'R':  // REDUCE
        return reduce();
      case 'b':  // BUILD: the _metadata of a state dict, of no use here
        pop();
        if (rows_[top()].kind != Kind::dict) damaged("a state for something that has none");
        return;
      case 'Q':  // BINPERSID
        return push_storage();
      default:
        fail("its pickle has opcode " + std::to_string(opcode) + " at byte " +
             std::to_string(at_ - 1) + ", which no dict of tensors needs; nothing was run");
    }
  }

  /// A two's complement integer, little-endian.
  void push_long(std::string_view bytes) {
    if (bytes.size() > 8) damaged("an integer of more than 64 bits");
    std::uint64_t value = !bytes.empty() && (bytes.back() & 0x80) != 0 ? ~std::uint64_t{0} : 0;
    for (std::size_t i = bytes.size(); i-- > 0;)
      value = (value << 8) | static_cast<unsigned char>(bytes[i]);
    push(Kind::integer, std::int64_t(value));
  }

  void push_global() {
    const std::string_view module = take_line();
    const std::string name = std::string(module) + "." + std::string(take_line());
    for (const PickleGlobalRow& row : pickle_globals)
      if (row.name == name)
        return push(
            Row{.kind = Kind::global, .type = row.type, .number = std::int64_t(row.global)});
    throw Error(place_,
                "its pickle asks for the Python object " + in_quotes(name) +
                    ", which no dict of tensors needs; nothing was run",
                "If you trust its source, save only model.state_dict() with torch.save; otherwise "
                "delete it");
  }

  // ---- what a REDUCE or a persistent id means ----

  const Row& item(const Row& tuple, std::size_t i, Kind kind) const {
    if (tuple.kind != Kind::tuple || i >= tuple.items.size() || rows_[tuple.items[i]].kind != kind)
      damaged("an argument of the wrong kind");
    return rows_[tuple.items[i]];
  }
  bool is_global(const Row& row, PickleGlobal global) const {
    return row.kind == Kind::global && row.number == std::int64_t(global);
  }

  /// ('storage', torch.FloatStorage, key, device, elements)
  void push_storage() {
    const Row& id = rows_[pop()];
    const Row& type = item(id, 1, Kind::global);
    const Row& elements = item(id, 4, Kind::integer);
    if (item(id, 0, Kind::text).text != "storage" ||
        !is_global(type, PickleGlobal::storage_class) || elements.number < 0)
      damaged("a storage of the wrong kind");
    push(Row{.kind = Kind::storage,
             .type = type.type,
             .number = elements.number,
             .text = item(id, 2, Kind::text).text});
  }

  void reduce() {
    const int arguments = pop(), callee = pop();
    reduce(rows_[callee], arguments);
  }

  void reduce(const Row& callee, int arguments) {
    const Row& tuple = rows_[arguments];
    if (callee.kind != Kind::global || tuple.kind != Kind::tuple)
      damaged("a call of something that is no name");
    switch (PickleGlobal(callee.number)) {
      case PickleGlobal::ordered_dict:
        if (!tuple.items.empty()) damaged("an OrderedDict with arguments");
        return push(Kind::dict);
      case PickleGlobal::rebuild_tensor:
        return push_tensor(tuple);
      case PickleGlobal::rebuild_parameter:  // (tensor, requires_grad, hooks)
        item(tuple, 0, Kind::tensor);
        return stack_.push_back(tuple.items[0]);
      case PickleGlobal::rebuild_from_type: {  // (function, class, arguments, state)
        const Row& function = item(tuple, 0, Kind::global);
        if (!is_global(item(tuple, 1, Kind::global), PickleGlobal::tensor_class) ||
            is_global(function, PickleGlobal::rebuild_from_type))
          damaged("a tensor of an unknown class");
        item(tuple, 2, Kind::tuple);
        return reduce(function, tuple.items[2]);
      }
      default:
        damaged("a call of a class");
    }
  }

  /// (storage, offset, size, strides, requires_grad, hooks)
  void push_tensor(const Row& tuple) {
    const Row& storage = item(tuple, 0, Kind::storage);
    PickledTensor tensor{.info = {storage.type, integers(item(tuple, 2, Kind::tuple))},
                         .strides = integers(item(tuple, 3, Kind::tuple)),
                         .offset = item(tuple, 1, Kind::integer).number,
                         .storage = storage.text,
                         .storage_elements = storage.number};
    check_bounds(tensor);
    tensors_.push_back(std::move(tensor));
    push(Kind::tensor, std::int64_t(tensors_.size()) - 1);
  }

  std::vector<std::int64_t> integers(const Row& tuple) const {
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < tuple.items.size(); ++i)
      out.push_back(item(tuple, i, Kind::integer).number);
    return out;
  }

  /// Sets `last`, and throws unless every element lies in the storage.
  void check_bounds(PickledTensor& tensor) const {
    const std::vector<std::int64_t>& shape = tensor.info.shape;
    const std::optional<std::int64_t> count = element_count(shape);
    if (!count || shape.size() != tensor.strides.size() || shape.size() > pickle_most_dimensions ||
        tensor.offset < 0)
      damaged("a tensor of impossible shape " + shape_text(shape));
    if (*count == 0) return;
    std::int64_t last = tensor.offset;
    for (std::size_t i = 0; i < shape.size(); ++i) {
      std::int64_t reach = 0;
      if (tensor.strides[i] < 0 ||
          __builtin_mul_overflow(shape[i] - 1, tensor.strides[i], &reach) ||
          __builtin_add_overflow(last, reach, &last))
        damaged("a tensor of impossible strides " + shape_text(tensor.strides));
    }
    if (last >= tensor.storage_elements)
      damaged("a tensor reaches element " + std::to_string(last) + " of a storage of " +
              std::to_string(tensor.storage_elements));
    tensor.last = last;
  }

  // ---- the result ----

  /// The value of a text key, or -1.
  int find_in_dict(int dict, std::string_view key) const {
    const Row& row = rows_[dict];
    if (row.kind != Kind::dict) fail("its pickle holds no dict of tensors");
    for (std::size_t i = 0; i < row.items.size(); i += 2) {
      const Row& candidate = rows_[row.items[i]];
      if (candidate.kind == Kind::text && candidate.text == key) return row.items[i + 1];
    }
    return -1;
  }

  std::vector<NamedPickledTensor> tensors_of(int dict) const {
    const std::vector<int>& items = rows_[dict].items;
    std::vector<NamedPickledTensor> out;
    std::set<std::string_view> seen;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      const Row &key = rows_[items[i]], &value = rows_[items[i + 1]];
      if (value.kind != Kind::tensor) continue;
      if (key.kind != Kind::text) damaged("a tensor whose name is no text");
      if (!seen.insert(key.text).second) damaged("the name " + in_quotes(key.text) + " twice");
      out.push_back({key.text, tensors_[std::size_t(value.number)]});
    }
    return out;
  }

  std::string place_;
  std::string input_;
  std::size_t at_ = 0;
  std::vector<Row> rows_;
  std::vector<PickledTensor> tensors_;
  std::vector<int> stack_;
  std::vector<std::size_t> marks_;
  std::vector<int> memo_;  // row, or -1
};

}  // namespace ctrain
