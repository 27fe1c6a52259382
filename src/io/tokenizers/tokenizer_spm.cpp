// SentencePiece's tokenizer.model (HGRN-2 uses Mistral's). Models such as that are encoded by
// SpmBpe, which makes the same ids as the library, faster; the others, and decoding, are the
// library's. Source: google/sentencepiece; special tokens in the text as transformers'
// LlamaTokenizer has them.
#include <sentencepiece_processor.h>

#include "added_tokens.h"
#include "spm_bpe.h"
#include "spm_model.h"
#include "stuffed/core/error.h"
#include "stuffed/io/json.h"
#include "tokenizers.h"

namespace stuffed::io {

using sentencepiece::SentencePieceProcessor;

namespace {

// The model's own folder may say that no beginning-of-text token is wanted.
bool config_wants_bos(const std::string& model_path) {
  const auto path = std::filesystem::path(model_path).parent_path() / "tokenizer_config.json";
  if (!std::filesystem::is_regular_file(path))
    return true;
  const json config = read_json(path);
  return !config.is_object() || config.value("add_bos_token", json(true)) != false;
}

class SpmTokenizer final : public Tokenizer {
 public:
  SpmTokenizer(const TokenizerFile& file, const TokenizerOptions& options)
      : path_(file.path), hash_(file.hash) {
    const SpmModel model = read_spm_model(file.content, path_);
    const auto status = library_.LoadFromSerializedProto(file.content);
    check(status.ok(), Error::Kind::Input, "{}: not a usable SentencePiece model: {}", path_,
          status.error_message());
    eos_ = id_or_none(library_.eos_id());
    if (options.add_bos && config_wants_bos(path_))
      bos_ = id_or_none(library_.bos_id());

    std::vector<std::pair<std::string, int32_t>> special;
    for (int32_t id = 0; const SpmPiece& piece : model.pieces) {
      const bool is_byte = piece.type == SpmPiece::Byte;
      check(!piece.text.empty() && (!is_byte || byte_of_piece(piece.text) >= 0), Error::Kind::Input,
            "{}: piece {} is '{}', which spells nothing", path_, id, piece.text);
      if (piece.type == SpmPiece::Control || piece.type == SpmPiece::Unknown)
        special.emplace_back(std::string(piece.text), id);
      else if (piece.type == SpmPiece::UserDefined)
        keep_whole(piece.text);
      ++id;
    }
    if (options.parse_special) {
      for (const auto& [text, id] : special)
        cut_.keep_whole(text);
      special_ = AddedTokens(std::move(special));
    }
    bpe_ = SpmBpe::make(model, path_);
  }

  std::string_view kind() const override { return "sentencepiece"; }
  int64_t vocab_size() const override { return library_.GetPieceSize(); }
  std::optional<int64_t> bos() const override { return bos_; }
  std::optional<int64_t> eos() const override { return eos_; }

  size_t encode_piece(std::string_view text,
                      Piece piece,
                      std::vector<int32_t>& ids) const override {
    if (!piece.is_last)
      text = text.substr(0, bpe_ ? bpe_->last_cut(text, cut_) : 0);
    if (text.empty() && !piece.is_last)
      return 0;
    if (bos_ && piece.is_first)
      ids.push_back(static_cast<int32_t>(*bos_));
    const auto add_token = [&](int32_t id) { ids.push_back(id); };
    if (!bpe_) {
      special_.split(
          text, [&](std::string_view segment) { encode_with_library(segment, ids); }, add_token);
      return text.size();
    }
    BpeEncoder encoder(bpe_->merges(), text.size(), ids);
    special_.split(
        text,
        [&](std::string_view segment) {
          const bool goes_on = !piece.is_first && segment.data() == text.data();
          bpe_->encode(segment, goes_on, encoder, ids);
        },
        add_token);
    return text.size();
  }

  std::string decode_bytes(std::span<const int32_t> ids) const override {
    std::string bytes;
    for (const int32_t id : ids) {
      if (id < 0 || id >= library_.GetPieceSize() || library_.IsControl(id))
        continue;
      const std::string& piece = library_.IdToPiece(id);
      if (library_.IsByte(id)) {
        bytes.push_back(static_cast<char>(byte_of_piece(piece)));
        continue;
      }
      for (size_t at = 0; at < piece.size();) {
        const bool space = std::string_view(piece).substr(at).starts_with(kSpace);
        bytes.push_back(space ? ' ' : piece[at]);
        at += space ? kSpace.size() : 1;
      }
    }
    return bytes;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::vector<int> known;
    for (const int32_t id : ids)
      if (id >= 0 && id < library_.GetPieceSize())
        known.push_back(id);
    return library_.DecodeIds(known);
  }

  const std::string& hash() const override { return hash_; }
  std::string source() const override { return path_; }

 private:
  static std::optional<int64_t> id_or_none(int id) {
    return id >= 0 ? std::optional<int64_t>(id) : std::nullopt;
  }

  void encode_with_library(std::string_view text, std::vector<int32_t>& ids) const {
    std::vector<int> text_ids;
    const auto status = library_.Encode({text.data(), text.size()}, &text_ids);
    check(status.ok(), Error::Kind::Input,
          "the SentencePiece library cannot encode this with {}: {}", path_,
          status.error_message());
    ids.insert(ids.end(), text_ids.begin(), text_ids.end());
  }

  /// Pieces spell a space as U+2581.
  void keep_whole(std::string_view piece) {
    cut_.keep_whole(piece);
    std::string plain;
    for (size_t at = 0; at < piece.size();) {
      const bool is_space = piece.substr(at).starts_with(kSpace);
      plain += is_space ? ' ' : piece[at];
      at += is_space ? kSpace.size() : 1;
    }
    cut_.keep_whole(plain);
  }

  std::string path_, hash_;
  SentencePieceProcessor library_;
  std::optional<SpmBpe> bpe_;  // encodes in its stead
  std::optional<int64_t> bos_, eos_;
  AddedTokens special_;
  PieceCut cut_;
};

}  // namespace

TokenizerPointer make_spm_tokenizer(const TokenizerFile& file, const TokenizerOptions& options) {
  return std::make_shared<SpmTokenizer>(file, options);
}

}  // namespace stuffed::io
