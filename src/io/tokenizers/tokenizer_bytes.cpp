// The tokenizer of byte-level models: a token is a byte.
#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "tokenizers.h"

namespace stuffed::io {

namespace {

class BytesTokenizer final : public Tokenizer {
 public:
  BytesTokenizer() : hash_(sha256("bytes")) {}

  std::string_view kind() const override { return "bytes"; }
  int64_t vocab_size() const override { return 256; }
  std::optional<int64_t> bos() const override { return std::nullopt; }
  std::optional<int64_t> eos() const override { return std::nullopt; }

  size_t encode_piece(std::string_view text, Piece, std::vector<int32_t>& ids) const override {
    const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
    ids.insert(ids.end(), bytes, bytes + text.size());
    return text.size();
  }
  bool needs_utf8() const override { return false; }

  std::string decode_bytes(std::span<const int32_t> ids) const override {
    std::string bytes;
    bytes.reserve(ids.size());
    for (const int32_t id : ids)
      if (id >= 0 && id < 256)
        bytes.push_back(static_cast<char>(id));
    return bytes;
  }

  const std::string& hash() const override { return hash_; }
  std::string source() const override { return "bytes"; }

 private:
  std::string hash_;
};

}  // namespace

TokenizerPointer make_bytes_tokenizer() {
  return std::make_shared<BytesTokenizer>();
}

}  // namespace stuffed::io
