// The parts of a tokenizer.json that the GPT-NeoX and SentencePiece kinds share.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "bpe_merge.h"

namespace stuffed::io {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;     // such as end of text; not special: the runs of spaces
  bool normalized = false;  // looked for after normalization, else before
};

struct BpeJson {
  std::vector<std::string> tokens;  // by id, as the file spells them; "" where it has none
  std::unordered_map<std::string, int32_t> ids;  // of the model's vocabulary, without added tokens
  std::vector<BpeMerge> merges;                  // first to last
  std::vector<AddedToken> added;
  std::optional<int32_t> bos;  // what the post-processor puts before the text
};

/// Errors  Input, naming `path`, if something is missing, contradicts itself or asks for what the
/// two kinds do not have (dropout, word suffixes, tokens that swallow white space around them)
BpeJson read_bpe_json(const nlohmann::json& description, const std::string& path);

/// description[key]["type"], or "" if that is null or missing.
std::string type_of(const nlohmann::json& description, const char* key);

}  // namespace stuffed::io
