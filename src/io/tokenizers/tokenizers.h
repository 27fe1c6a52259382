// How each kind of tokenizer is made from its file. load_tokenizer() chooses among them by content.
#pragma once
#include <memory>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "stuffed/io/tokenizer.h"

namespace stuffed::io {

/// What a tokenizer was made from.
struct TokenizerFile {
  std::string path;     // as the user named it; for messages and provenance
  std::string content;  // every byte of it
  std::string hash;     // SHA-256 of `content`
};

using TokenizerPointer = std::shared_ptr<const Tokenizer>;

/// Chooses among the kinds below by what `file` holds. Throws Input if it is none of them.
TokenizerPointer make_tokenizer(const TokenizerFile& file, const TokenizerOptions& options);

/// Id = byte value, no beginning or end of text.
TokenizerPointer make_bytes_tokenizer();

/// RWKV "World": greedy longest match over raw bytes. `file` lists `<id> <Python literal>
/// <length>`.
TokenizerPointer make_rwkv_tokenizer(const TokenizerFile& file);

/// GPT-NeoX: byte-level BPE from a tokenizer.json whose pre-tokenizer is ByteLevel.
TokenizerPointer make_neox_tokenizer(const TokenizerFile& file,
                                     const nlohmann::json& description,
                                     const TokenizerOptions& options);

/// SentencePiece BPE with byte fallback as Hugging Face converts it to tokenizer.json.
TokenizerPointer make_spm_json_tokenizer(const TokenizerFile& file,
                                         const nlohmann::json& description,
                                         const TokenizerOptions& options);

/// SentencePiece's own tokenizer.model.
TokenizerPointer make_spm_tokenizer(const TokenizerFile& file, const TokenizerOptions& options);

}  // namespace stuffed::io
