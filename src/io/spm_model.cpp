#include "spm_model.h"

#include <cstdint>

#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

struct Field {
  uint64_t number = 0;
  uint64_t value = 0;      // of a varint
  std::string_view bytes;  // of a length-delimited field
};

// Walks the fields of one protobuf message.
class Message {
 public:
  Message(std::string_view bytes, const std::string& path) : rest_(bytes), path_(path) {}

  bool done() const { return rest_.empty(); }

  Field next() {
    const uint64_t tag = varint();
    Field field{.number = tag >> 3, .value = 0, .bytes = {}};
    switch (tag & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.bytes = take(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.bytes = take(4);
        break;
      default:
        refuse();
    }
    return field;
  }

 private:
  [[noreturn]] void refuse() const {
    fail(Error::Kind::Input,
         "{}: neither a tokenizer.json, nor a World vocabulary, nor a whole SentencePiece model",
         path_);
  }

  std::string_view take(uint64_t bytes) {
    if (bytes > rest_.size())
      refuse();
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80)
        return value;
    }
    refuse();
  }

  std::string_view rest_;
  const std::string& path_;
};

// Field numbers of ModelProto, TrainerSpec and NormalizerSpec.
constexpr uint64_t kTrainerSpec = 2, kNormalizerSpec = 3;
constexpr uint64_t kModelType = 3;
constexpr uint64_t kCharacterMap = 2, kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4,
                   kEscapeWhitespaces = 5;

void read_normalizer(Message spec, SpmSettings& out) {
  while (!spec.done()) {
    const Field field = spec.next();
    if (field.number == kCharacterMap)
      out.has_character_map = !field.bytes.empty();
    if (field.number == kRemoveExtraWhitespaces)
      out.remove_extra_whitespaces = field.value != 0;
    if (field.number == kEscapeWhitespaces)
      out.escape_whitespaces = field.value != 0;
  }
}

}  // namespace

SpmSettings read_spm_settings(std::string_view model, const std::string& path) {
  SpmSettings out;
  Message message(model, path);
  while (!message.done()) {
    const Field field = message.next();
    if (field.number == kNormalizerSpec)
      read_normalizer(Message(field.bytes, path), out);
    if (field.number != kTrainerSpec)
      continue;
    Message spec(field.bytes, path);
    while (!spec.done())
      if (const Field inner = spec.next(); inner.number == kModelType)
        out.model_type = static_cast<int>(inner.value);
  }
  return out;
}

std::string without_dummy_prefix(const std::string& model) {
  constexpr char kField[] = {kNormalizerSpec << 3 | 2, 2, kAddDummyPrefix << 3, 0};
  return model + std::string(kField, sizeof kField);
}

}  // namespace stuffed::io
