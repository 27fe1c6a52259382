// SentencePiece's tokenizer.model (HGRN-2 uses Mistral's), through the SentencePiece library. Long
// text is given to it in parts, cut where no piece of the vocabulary can reach across, so its
// memory does not grow with the text. Source: google/sentencepiece; special tokens in the text as
// transformers' LlamaTokenizer has them.
#include <charconv>

#include <sentencepiece_processor.h>

#include "added_tokens.h"
#include "bpe_merge.h"
#include "spm_model.h"
#include "stuffed/core/error.h"
#include "stuffed/io/json.h"
#include "tokenizers.h"
#include "utf8.h"

namespace stuffed::io {

using sentencepiece::SentencePieceProcessor;

namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581, how pieces spell a space
constexpr size_t kPartBytes = size_t{1} << 16;  // its agenda and symbols stay within the L2 cache

void load(SentencePieceProcessor& processor, const std::string& model, const std::string& path) {
  const auto status = processor.LoadFromSerializedProto(model);
  check(status.ok(), Error::Kind::Input, "{}: not a usable SentencePiece model: {}", path,
        status.error_message());
}

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
    const SpmSettings settings = read_spm_settings(file.content, path_);
    load(whole_, file.content, path_);
    load(parts_, without_dummy_prefix(file.content), path_);
    eos_ = id_or_none(whole_.eos_id());
    if (options.add_bos && config_wants_bos(path_))
      bos_ = id_or_none(whole_.bos_id());

    bool has_bytes = false;
    std::vector<std::pair<std::string, int32_t>> special;
    for (int id = 0; id < whole_.GetPieceSize(); ++id) {
      const std::string& piece = whole_.IdToPiece(id);
      check(!piece.empty() && (!whole_.IsByte(id) || byte_of(piece) >= 0), Error::Kind::Input,
            "{}: piece {} is '{}', which spells nothing", path_, id, piece);
      has_bytes = has_bytes || whole_.IsByte(id);
      if (whole_.IsControl(id) || whole_.IsUnknown(id))
        special.emplace_back(piece, id);
      else if (!whole_.IsByte(id))
        add_seams(piece);
    }
    if (options.parse_special)
      special_ = AddedTokens(std::move(special));
    // Only then is a part's encoding a part of the whole's: other kinds look at the neighbours.
    divisible_ = settings.model_type == 2 && has_bytes && !settings.has_character_map &&
                 !settings.remove_extra_whitespaces && settings.escape_whitespaces;
  }

  std::string_view kind() const override { return "sentencepiece"; }
  int64_t vocab_size() const override { return whole_.GetPieceSize(); }
  std::optional<int64_t> bos() const override { return bos_; }
  std::optional<int64_t> eos() const override { return eos_; }

  std::vector<int32_t> encode(std::string_view text) const override {
    check_utf8(text, kind());
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3 + 16);
    if (bos_)
      ids.push_back(static_cast<int32_t>(*bos_));
    special_.split(
        text, [&](std::string_view segment) { encode_segment(segment, ids); },
        [&](int32_t id) { ids.push_back(id); });
    return ids;
  }

  std::string decode_bytes(std::span<const int32_t> ids) const override {
    std::string bytes;
    for (const int32_t id : ids) {
      if (id < 0 || id >= whole_.GetPieceSize() || whole_.IsControl(id))
        continue;
      const std::string& piece = whole_.IdToPiece(id);
      if (whole_.IsByte(id)) {
        bytes.push_back(static_cast<char>(byte_of(piece)));
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
      if (id >= 0 && id < whole_.GetPieceSize())
        known.push_back(id);
    return whole_.DecodeIds(known);
  }

  const std::string& hash() const override { return hash_; }
  std::string source() const override { return path_; }

 private:
  // Of a piece such as <0x0A>; -1 if it is not spelled so.
  static int byte_of(std::string_view piece) {
    int byte = -1;
    if (piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with('>'))
      std::from_chars(piece.data() + 3, piece.data() + 5, byte, 16);
    return byte;
  }

  static std::optional<int64_t> id_or_none(int id) {
    return id >= 0 ? std::optional<int64_t>(id) : std::nullopt;
  }

  void add_seams(std::string_view piece) {
    if (find_invalid_utf8(piece) != std::string_view::npos)
      return;  // text is UTF-8, so such a piece never occurs
    char32_t before = 0;
    for (bool first = true; !piece.empty(); first = false) {
      const CodePoint next = first_code_point(piece);
      if (!first)
        seams_.insert(static_cast<int32_t>(before), static_cast<int32_t>(next.value), 0, 0);
      before = next.value;
      piece.remove_prefix(static_cast<size_t>(next.bytes));
    }
  }

  void encode_segment(std::string_view segment, std::vector<int32_t>& ids) const {
    std::vector<int> part_ids;
    const auto encode_part = [&](const SentencePieceProcessor& processor, std::string_view part) {
      const auto status = processor.Encode({part.data(), part.size()}, &part_ids);
      check(status.ok(), Error::Kind::Internal, "SentencePiece cannot encode: {}",
            status.error_message());
      ids.insert(ids.end(), part_ids.begin(), part_ids.end());
    };
    if (!divisible_ || segment.size() <= kPartBytes)
      return encode_part(whole_, segment);
    const size_t first = end_of_part(segment);
    encode_part(whole_, segment.substr(0, first));
    for (segment.remove_prefix(first); !segment.empty();) {
      const size_t bytes = end_of_part(segment);
      encode_part(parts_, segment.substr(0, bytes));
      segment.remove_prefix(bytes);
    }
  }

  // The first place after kPartBytes between two characters that no piece holds next to each other.
  size_t end_of_part(std::string_view text) const {
    if (text.size() <= kPartBytes)
      return text.size();
    size_t at = kPartBytes;
    while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80)  // to the start of a character
      --at;
    char32_t before = 0;
    for (bool first = true; at < text.size(); first = false) {
      const CodePoint next = first_code_point(text.substr(at));
      const char32_t spelled = next.value == U' ' ? U'\u2581' : next.value;
      if (!first &&
          seams_.find(static_cast<int32_t>(before), static_cast<int32_t>(spelled)) == nullptr)
        return at;
      before = spelled;
      at += static_cast<size_t>(next.bytes);
    }
    return text.size();
  }

  std::string path_, hash_;
  SentencePieceProcessor whole_, parts_;  // parts_ puts no space before the text
  bool divisible_ = false;
  std::optional<int64_t> bos_, eos_;
  AddedTokens special_;
  PairTable seams_;  // characters that follow each other inside some piece
};

}  // namespace

TokenizerPointer make_spm_tokenizer(const TokenizerFile& file, const TokenizerOptions& options) {
  return std::make_shared<SpmTokenizer>(file, options);
}

}  // namespace stuffed::io
