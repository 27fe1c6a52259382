// What a tokenizer.model says about itself that the SentencePiece library keeps to itself.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace stuffed::io {

struct SpmPiece {
  enum Type { Normal = 1, Unknown = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6 };
  std::string_view text;  // into the model's bytes
  float score = 0;
  int type = Normal;
};

/// Fields of a serialized sentencepiece.ModelProto; the values here are the format's defaults.
struct SpmModel {
  std::vector<SpmPiece> pieces;  // by id
  int model_type = 1;            // 1 unigram, 2 BPE
  bool has_character_map = false;
  bool add_dummy_prefix = true;  // a space before the text
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool whitespace_is_suffix = false;
};

/// Source  sentencepiece_model.proto of google/sentencepiece
/// Errors  Input, naming `path`, if the bytes are not such a message
SpmModel read_spm_model(std::string_view model, const std::string& path);

/// What a byte piece such as <0x0A> stands for; -1 if it is not spelled so.
int byte_of_piece(std::string_view piece);

}  // namespace stuffed::io
