// Text to token ids and back, for the tokenizers the published models use.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stuffed::io {

struct TokenizerOptions {
  bool add_bos = true;  // prepend the beginning-of-text token, where the tokenizer's policy has one
  bool parse_special =
      true;  // recognise added tokens such as <|endoftext|> in user text (NeoX, Mistral)
};

/// Which part of a text is at hand.
struct Piece {
  bool is_first = true, is_last = true;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string_view kind() const = 0;  // "neox-bpe", "rwkv-world", "sentencepiece", "bytes"
  virtual int64_t vocab_size() const = 0;     // ids are in [0, vocab_size)
  virtual std::optional<int64_t> bos()
      const = 0;  // what encode() prepends; none if the policy adds none
  virtual std::optional<int64_t> eos() const = 0;  // end of text
  /// Token ids of the whole text, including the beginning-of-text token if the policy adds one.
  /// Errors  Input for what is not UTF-8, where needs_utf8()
  std::vector<int32_t> encode(std::string_view text) const;
  /// For a text that comes in pieces: appends the ids of as much of `text` as no later byte can
  /// change, all of it if it is the last piece, and returns how many bytes that is. The next piece
  /// begins behind them. So the ids of all pieces together are encode()'s. The text must be UTF-8
  /// where needs_utf8().
  virtual size_t encode_piece(std::string_view text,
                              Piece piece,
                              std::vector<int32_t>& ids) const = 0;
  /// Whether only UTF-8 can be encoded.
  virtual bool needs_utf8() const { return true; }
  /// Bytes of the tokens, exactly as the tokens spell them: may end inside a UTF-8 sequence.
  virtual std::string decode_bytes(std::span<const int32_t> ids) const = 0;
  /// Text of the tokens as upstream's decode() returns it: invalid UTF-8 replaced by U+FFFD.
  virtual std::string decode(std::span<const int32_t> ids) const;
  /// SHA-256 of the file(s) it was made from, 64 hex digits; of the algorithm's name for "bytes".
  virtual const std::string& hash() const = 0;
  virtual std::string source() const = 0;  // the file, or "bytes"
};

/// `path`: a tokenizer.json, a tokenizer.model, a World vocabulary, a folder that holds one of
/// them, or "bytes".
/// Errors  Input if missing or not understood: says which file is looked for and how to get it
std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path,
                                                const TokenizerOptions& options = {});

/// The tokenizer in a model's folder, by its files, in this order: tokenizer.json, tokenizer.model,
/// Mistral's tokenizer.model.v*, rwkv_vocab*.txt, stuffed_tokenizer.json ({"tokenizer": "bytes"}).
/// Throws Input naming them if there is none.
std::shared_ptr<const Tokenizer> find_tokenizer(const std::filesystem::path& model,
                                                const TokenizerOptions& options = {});

}  // namespace stuffed::io
