#include "spm_model.h"

#include <charconv>
#include <cstdint>
#include <cstring>

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

// Field numbers of ModelProto, its Piece, TrainerSpec and NormalizerSpec.
constexpr uint64_t kPiece = 1, kTrainerSpec = 2, kNormalizerSpec = 3;
constexpr uint64_t kPieceText = 1, kPieceScore = 2, kPieceType = 3;
constexpr uint64_t kModelType = 3, kWhitespaceIsSuffix = 24;
constexpr uint64_t kCharacterMap = 2, kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4,
                   kEscapeWhitespaces = 5;

SpmPiece read_piece(Message piece) {
  SpmPiece out;
  while (!piece.done()) {
    const Field field = piece.next();
    if (field.number == kPieceText)
      out.text = field.bytes;
    if (field.number == kPieceScore && field.bytes.size() == sizeof out.score)
      std::memcpy(&out.score, field.bytes.data(), sizeof out.score);
    if (field.number == kPieceType)
      out.type = static_cast<int>(field.value);
  }
  return out;
}

void read_trainer(Message spec, SpmModel& out) {
  while (!spec.done()) {
    const Field field = spec.next();
    if (field.number == kModelType)
      out.model_type = static_cast<int>(field.value);
    if (field.number == kWhitespaceIsSuffix)
      out.whitespace_is_suffix = field.value != 0;
  }
}

void read_normalizer(Message spec, SpmModel& out) {
  while (!spec.done()) {
    const Field field = spec.next();
    if (field.number == kCharacterMap)
      out.has_character_map = !field.bytes.empty();
    if (field.number == kAddDummyPrefix)
      out.add_dummy_prefix = field.value != 0;
    if (field.number == kRemoveExtraWhitespaces)
      out.remove_extra_whitespaces = field.value != 0;
    if (field.number == kEscapeWhitespaces)
      out.escape_whitespaces = field.value != 0;
  }
}

}  // namespace

SpmModel read_spm_model(std::string_view model, const std::string& path) {
  SpmModel out;
  Message message(model, path);
  while (!message.done()) {
    const Field field = message.next();
    if (field.number == kPiece)
      out.pieces.push_back(read_piece(Message(field.bytes, path)));
    if (field.number == kTrainerSpec)
      read_trainer(Message(field.bytes, path), out);
    if (field.number == kNormalizerSpec)
      read_normalizer(Message(field.bytes, path), out);
  }
  return out;
}

int byte_of_piece(std::string_view piece) {
  int byte = -1;
  if (piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with('>'))
    std::from_chars(piece.data() + 3, piece.data() + 5, byte, 16);
  return byte;
}

}  // namespace stuffed::io
