// What a tokenizer.model says about itself that the SentencePiece library keeps to itself.
#pragma once
#include <string>
#include <string_view>

namespace stuffed::io {

/// Fields of a serialized sentencepiece.ModelProto; the values here are the format's defaults.
struct SpmSettings {
  int model_type = 1;  // 1 unigram, 2 BPE
  bool has_character_map = false;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

/// Source  sentencepiece_model.proto of google/sentencepiece
/// Errors  Input, naming `path`, if the bytes are not such a message
SpmSettings read_spm_settings(std::string_view model, const std::string& path);

/// The same model, told not to put a space before the text. (The last value of a field wins, so
/// appending it to the message suffices.)
std::string without_dummy_prefix(const std::string& model);

}  // namespace stuffed::io
