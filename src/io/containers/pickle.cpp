#include "pickle.h"

#include <algorithm>
#include <array>
#include <set>
#include <unordered_map>

#include "mapped_file.h"
#include "stuffed/core/shown.h"
#include "tensor_container.h"

namespace stuffed::io {
namespace {

// A tensor takes about 200 bytes of pickle, so this is some 40,000 tensors. It bounds the memory
// that a hostile file can make us use.
constexpr size_t kMaxPickleBytes = size_t{8} << 20;

enum class Type : uint8_t { None, Bool, Int, Float, Text, Global, Storage, Tensor, Tuple, Dict };

constexpr std::array<const char*, 10> kTypeNames = {"None",     "a bool",   "an int",    "a float",
                                                    "a string", "a global", "a storage", "a tensor",
                                                    "a tuple",  "a dict"};

/// A Python value: small, and without ownership, so that no nesting can exhaust the stack.
struct Value {
  Type type = Type::None;
  uint32_t count = 0;  // Text: bytes. Tuple: items
  int64_t number = 0;  // Bool, Int: itself. Text: position in the pickle. Others: index into a pool
};

struct Global {
  std::string_view module, name;
  at::ScalarType dtype = at::ScalarType::Undefined;  // of a storage class
};
constexpr int64_t kOrderedDict = 0;
constexpr int64_t kRebuildTensor = 1;
constexpr std::array<Global, 12> kGlobals = {{
    {"collections", "OrderedDict"},
    {"torch._utils", "_rebuild_tensor_v2"},
    {"torch", "DoubleStorage", at::kDouble},
    {"torch", "FloatStorage", at::kFloat},
    {"torch", "HalfStorage", at::kHalf},
    {"torch", "BFloat16Storage", at::kBFloat16},
    {"torch", "LongStorage", at::kLong},
    {"torch", "IntStorage", at::kInt},
    {"torch", "ShortStorage", at::kShort},
    {"torch", "CharStorage", at::kChar},
    {"torch", "ByteStorage", at::kByte},
    {"torch", "BoolStorage", at::kBool},
}};

/// Opcodes of pickle protocol 2, by the names of Python's pickletools.
enum Opcode : uint8_t {
  MARK = '(',
  STOP = '.',
  BININT = 'J',
  BININT1 = 'K',
  BININT2 = 'M',
  NONE = 'N',
  BINPERSID = 'Q',
  REDUCE = 'R',
  BINUNICODE = 'X',
  EMPTY_TUPLE = ')',
  BUILD = 'b',
  GLOBAL = 'c',
  BINGET = 'h',
  LONG_BINGET = 'j',
  BINPUT = 'q',
  LONG_BINPUT = 'r',
  SETITEM = 's',
  TUPLE = 't',
  SETITEMS = 'u',
  EMPTY_DICT = '}',
  BINFLOAT = 'G',
  PROTO = 0x80,
  TUPLE1 = 0x85,
  TUPLE2 = 0x86,
  TUPLE3 = 0x87,
  NEWTRUE = 0x88,
  NEWFALSE = 0x89,
  LONG1 = 0x8a,
};

class Interpreter {
 public:
  Interpreter(std::span<const std::byte> pickle, std::string_view file)
      : pickle_(pickle), file_(file), reader_(pickle, file, "its data.pkl") {}

  std::vector<PickledTensor> run() {
    while (step(reader_.take<uint8_t>())) {
    }
    check(stack_.size() == 1 && stack_[0].type == Type::Dict, Error::Kind::Input,
          "{}: holds {}, expected a dict of tensors (a state dict)", file_,
          stack_.size() == 1 ? name_of(stack_[0]) : "no single value");
    return state_dict(dicts_[static_cast<size_t>(stack_[0].number)]);
  }

 private:
  using Items = std::vector<std::pair<Value, Value>>;

  struct Storage {
    std::string_view key;
    at::ScalarType dtype;
    int64_t count;
  };
  struct TensorView {
    size_t storage;
    int64_t offset;
    Value shape, stride;  // tuples
  };

  /// Executes one opcode; false after STOP.
  bool step(uint8_t opcode) {
    switch (opcode) {
      case STOP:
        return false;
      case PROTO: {
        const auto version = reader_.take<uint8_t>();
        check(version == 2, Error::Kind::Input,
              "{}: pickle protocol {}, expected 2 (torch.save's default)", file_, version);
        break;
      }
      case MARK:
        marks_.push_back(stack_.size());
        break;
      case NONE:
        push({Type::None});
        break;
      case NEWTRUE:
        push({Type::Bool, 0, 1});
        break;
      case NEWFALSE:
        push({Type::Bool, 0, 0});
        break;
      case BININT:
        push({Type::Int, 0, reader_.take<int32_t>()});
        break;
      case BININT1:
        push({Type::Int, 0, reader_.take<uint8_t>()});
        break;
      case BININT2:
        push({Type::Int, 0, reader_.take<uint16_t>()});
        break;
      case LONG1:
        push({Type::Int, 0, take_long()});
        break;
      case BINFLOAT:
        reader_.take<uint64_t>();
        push({Type::Float});
        break;
      case BINUNICODE: {
        const auto size = reader_.take<uint32_t>();
        push({Type::Text, size, static_cast<int64_t>(reader_.at())});
        reader_.take_bytes(size);
        break;
      }
      case GLOBAL:
        push({Type::Global, 0, take_global()});
        break;
      case BINPUT:
        memo_[reader_.take<uint8_t>()] = top();
        break;
      case LONG_BINPUT:
        memo_[reader_.take<uint32_t>()] = top();
        break;
      case BINGET:
        push(recall(reader_.take<uint8_t>()));
        break;
      case LONG_BINGET:
        push(recall(reader_.take<uint32_t>()));
        break;
      case EMPTY_TUPLE:
        push({Type::Tuple});
        break;
      case TUPLE1:
        make_tuple(1);
        break;
      case TUPLE2:
        make_tuple(2);
        break;
      case TUPLE3:
        make_tuple(3);
        break;
      case TUPLE:
        make_tuple(stack_.size() - pop_mark());
        break;
      case EMPTY_DICT:
        push_dict();
        break;
      case SETITEM:
        set_items(2);
        break;
      case SETITEMS:
        set_items(stack_.size() - pop_mark());
        break;
      case BINPERSID:
        make_storage();
        break;
      case REDUCE:
        reduce();
        break;
      case BUILD:
        build();
        break;
      default:
        fail(Error::Kind::Input,
             "{}: pickle opcode 0x{:02x} at byte {} does not occur in a saved state dict; save the "
             "model with torch.save(model.state_dict(), ...) or as safetensors",
             file_, opcode, reader_.at() - 1);
    }
    return true;
  }

  // The stack.

  void push(Value value) { stack_.push_back(value); }

  const Value& top() const {
    check(stack_.size() > floor(), Error::Kind::Input, "{}: its pickle takes from an empty stack",
          file_);
    return stack_.back();
  }

  Value pop() {
    const Value value = top();
    stack_.pop_back();
    return value;
  }

  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  size_t pop_mark() {
    check(!marks_.empty(), Error::Kind::Input, "{}: its pickle lacks a mark", file_);
    const size_t mark = marks_.back();
    marks_.pop_back();
    return mark;
  }

  const Value& recall(uint32_t index) const {
    const auto found = memo_.find(index);
    check(found != memo_.end(), Error::Kind::Input, "{}: its pickle recalls entry {}, never stored",
          file_, index);
    return found->second;
  }

  // Making values.

  int64_t take_long() {
    const auto size = reader_.take<uint8_t>();
    check(size <= 8, Error::Kind::Input, "{}: its pickle holds an integer of {} bytes", file_,
          size);
    const auto bytes = reader_.take_bytes(size);
    uint64_t value =
        size > 0 && (bytes.back() & std::byte{0x80}) != std::byte{0} ? ~uint64_t{0} : 0;
    std::memcpy(&value, bytes.data(), size);
    return static_cast<int64_t>(value);
  }

  std::string_view take_line() {
    const size_t begin = reader_.at();
    while (reader_.take<char>() != '\n') {
    }
    return text_at(begin, reader_.at() - 1 - begin);
  }

  int64_t take_global() {
    const auto module = take_line();
    const auto name = take_line();
    const auto found = std::find_if(kGlobals.begin(), kGlobals.end(), [&](const Global& global) {
      return global.module == module && global.name == name;
    });
    check(found != kGlobals.end(), Error::Kind::Input,
          "{}: its pickle asks for the Python object {}, which a state dict of plain tensors does "
          "not need; refused (pickles are never executed). Save the model with "
          "torch.save(model.state_dict(), ...) or as safetensors",
          file_, shown(fmt::format("{}.{}", module, name)));
    return found - kGlobals.begin();
  }

  void make_tuple(size_t count) {
    check(stack_.size() - floor() >= count, Error::Kind::Input,
          "{}: its pickle takes from an empty stack", file_);
    const Value tuple{Type::Tuple, static_cast<uint32_t>(count),
                      static_cast<int64_t>(tuple_items_.size())};
    tuple_items_.insert(tuple_items_.end(), stack_.end() - static_cast<ptrdiff_t>(count),
                        stack_.end());
    stack_.resize(stack_.size() - count);
    push(tuple);
  }

  void push_dict() {
    push({Type::Dict, 0, static_cast<int64_t>(dicts_.size())});
    dicts_.emplace_back();
  }

  void set_items(size_t count) {
    check(count % 2 == 0 && stack_.size() - floor() > count, Error::Kind::Input,
          "{}: its pickle takes from an empty stack", file_);
    const size_t first = stack_.size() - count;
    const Value& target = stack_[first - 1];
    check(target.type == Type::Dict, Error::Kind::Input, "{}: its pickle sets items of {}", file_,
          name_of(target));
    Items& items = dicts_[static_cast<size_t>(target.number)];
    for (size_t i = first; i < stack_.size(); i += 2)
      items.emplace_back(stack_[i], stack_[i + 1]);
    stack_.resize(first);
  }

  void make_storage() {
    const auto id = items_of(pop(), "a persistent id");
    check(id.size() == 5 && id[0].type == Type::Text && text(id[0]) == "storage" &&
              id[1].type == Type::Global && id[2].type == Type::Text && id[4].type == Type::Int &&
              id[4].number >= 0,
          Error::Kind::Input,
          "{}: a persistent id is not ('storage', class, key, location, element count)", file_);
    const auto dtype = kGlobals[static_cast<size_t>(id[1].number)].dtype;
    check(dtype != at::ScalarType::Undefined, Error::Kind::Input,
          "{}: a persistent id names no storage class", file_);
    push({Type::Storage, 0, static_cast<int64_t>(storages_.size())});
    storages_.push_back({text(id[2]), dtype, id[4].number});
  }

  void reduce() {
    const auto arguments = items_of(pop(), "a call's arguments");
    const Value callee = pop();
    check(callee.type == Type::Global, Error::Kind::Input, "{}: its pickle calls {}", file_,
          name_of(callee));
    if (callee.number == kOrderedDict) {
      check(arguments.empty(), Error::Kind::Input, "{}: an OrderedDict is made with arguments",
            file_);
      push_dict();
    } else {
      const Global& global = kGlobals[static_cast<size_t>(callee.number)];
      check(callee.number == kRebuildTensor, Error::Kind::Input, "{}: its pickle calls {}.{}",
            file_, global.module, global.name);
      make_tensor(arguments);
    }
  }

  // (storage, storage_offset, size, stride, requires_grad, hooks[, metadata])
  void make_tensor(std::span<const Value> arguments) {
    check((arguments.size() == 6 || arguments.size() == 7) && arguments[0].type == Type::Storage &&
              arguments[1].type == Type::Int && arguments[1].number >= 0 &&
              arguments[2].type == Type::Tuple && arguments[3].type == Type::Tuple,
          Error::Kind::Input,
          "{}: a tensor is not rebuilt from (storage, offset, size, stride, ...)", file_);
    for (const Value& tuple : {arguments[2], arguments[3]}) {
      check(tuple.count == arguments[2].count && tuple.count <= kMaxDims, Error::Kind::Input,
            "{}: a tensor has {} sizes and {} strides (at most {} of each)", file_,
            arguments[2].count, arguments[3].count, kMaxDims);
      for (const Value& item : items_of(tuple, "a shape"))
        check(item.type == Type::Int && item.number >= 0, Error::Kind::Input,
              "{}: a tensor's sizes and strides must be integers >= 0", file_);
    }
    push({Type::Tensor, 0, static_cast<int64_t>(tensors_.size())});
    tensors_.push_back({static_cast<size_t>(arguments[0].number), arguments[1].number, arguments[2],
                        arguments[3]});
  }

  // A state dict's _metadata attribute (versions of modules): says nothing about tensors.
  void build() {
    pop();
    check(top().type == Type::Dict, Error::Kind::Input, "{}: its pickle sets the state of {}",
          file_, name_of(top()));
  }

  // Reading values.

  static const char* name_of(const Value& value) {
    return kTypeNames[static_cast<size_t>(value.type)];
  }

  std::string_view text_at(size_t position, size_t size) const {
    return {reinterpret_cast<const char*>(pickle_.data()) + position, size};
  }
  std::string_view text(const Value& value) const {
    return text_at(static_cast<size_t>(value.number), value.count);
  }

  /// Valid until the next tuple is made.
  std::span<const Value> items_of(const Value& value, const char* what) const {
    check(value.type == Type::Tuple, Error::Kind::Input, "{}: {} is {}, expected a tuple", file_,
          what, name_of(value));
    return std::span(tuple_items_).subspan(static_cast<size_t>(value.number), value.count);
  }

  std::vector<int64_t> numbers(const Value& tuple) const {
    std::vector<int64_t> result;
    for (const Value& item : items_of(tuple, "a shape"))
      result.push_back(item.number);
    return result;
  }

  std::vector<PickledTensor> state_dict(const Items& items) const {
    std::vector<PickledTensor> result;
    std::set<std::string_view> names;
    for (const auto& [key, value] : items) {
      check(key.type == Type::Text, Error::Kind::Input,
            "{}: its dict has {} as a key, expected names", file_, name_of(key));
      const std::string_view name = text(key);
      check(names.insert(name).second, Error::Kind::Input, "{}: the name {} occurs twice", file_,
            shown(name));
      check(value.type == Type::Tensor, Error::Kind::Input,
            "{}: {} is {}, expected a tensor; if the weights are one entry of a training "
            "checkpoint, save that entry alone",
            file_, shown(name), name_of(value));
      const TensorView& view = tensors_[static_cast<size_t>(value.number)];
      const Storage& storage = storages_[view.storage];
      result.push_back({name, storage.key, storage.dtype, storage.count, view.offset,
                        numbers(view.shape), numbers(view.stride)});
    }
    return result;
  }

  std::span<const std::byte> pickle_;
  std::string_view file_;
  ByteReader reader_;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;  // stack heights
  std::unordered_map<uint32_t, Value> memo_;
  std::vector<Value> tuple_items_;
  std::vector<Items> dicts_;
  std::vector<Storage> storages_;
  std::vector<TensorView> tensors_;
};

}  // namespace

std::vector<PickledTensor> read_state_dict(std::span<const std::byte> pickle,
                                           std::string_view file) {
  check(pickle.size() <= kMaxPickleBytes, Error::Kind::Input,
        "{}: its data.pkl has {} bytes, more than {}: not a state dict of plain tensors", file,
        pickle.size(), kMaxPickleBytes);
  return Interpreter(pickle, file).run();
}

}  // namespace stuffed::io
