// GPT-NeoX's tokenizer (Mamba, Mamba-2, RWKV-7 on the Pile): byte-level BPE from any tokenizer.json
// of that kind. Source: EleutherAI/gpt-neox-20b, as the `tokenizers` package runs it.
#include <algorithm>
#include <array>

#include <nlohmann/json.hpp>

#include "added_tokens.h"
#include "bpe_json.h"
#include "bpe_merge.h"
#include "neox_split.h"
#include "piece_cut.h"
#include "src/io/utf8.h"
#include "stuffed/core/error.h"
#include "tokenizers.h"
#include "unicode.h"

namespace stuffed::io {

using nlohmann::json;

namespace {

// GPT-2 spells bytes as printable characters: those that are printable in Latin-1 as themselves,
// the rest as U+0100 and onwards in order.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      characters_[byte] = printable ? static_cast<char32_t>(byte) : next++;
    }
  }

  std::string spell(int byte) const {
    std::string text;
    append_utf8(characters_[byte], text);
    return text;
  }

  /// The bytes a token spells; a token with any other character spells itself.
  std::string bytes(const std::string& token) const {
    std::string out;
    for (std::string_view rest = token; !rest.empty();) {
      const CodePoint next = first_code_point(rest);
      const auto found = std::find(characters_.begin(), characters_.end(), next.value);
      if (found == characters_.end())
        return token;
      out.push_back(static_cast<char>(found - characters_.begin()));
      rest.remove_prefix(static_cast<size_t>(next.bytes));
    }
    return out;
  }

 private:
  std::array<char32_t, 256> characters_{};
};

constexpr int32_t kNoToken = -1;

// The published vocabulary has no tokens for these bytes.
bool never_in_utf8(int byte) {
  return byte == 0xC0 || byte == 0xC1 || byte > 0xF4;
}

void check_pipeline(const json& description, const std::string& path) {
  const std::string normalizer = type_of(description, "normalizer");
  check(normalizer.empty() || normalizer == "NFC", Error::Kind::Input,
        "{}: the normalizer is {}, expected NFC or none: this is not a GPT-NeoX tokenizer", path,
        normalizer);
  const json& split = description["pre_tokenizer"];
  const bool plain = split.value("add_prefix_space", json(false)) == false &&
                     split.value("use_regex", json(true)) == true;
  check(plain, Error::Kind::Input,
        "{}: the pre-tokenizer {} is not GPT-NeoX's (ByteLevel, add_prefix_space false, use_regex "
        "true)",
        path, split.dump());
}

class NeoxTokenizer final : public Tokenizer {
 public:
  NeoxTokenizer(const TokenizerFile& file, const json& description, const TokenizerOptions& options)
      : path_(file.path), hash_(file.hash), nfc_(type_of(description, "normalizer") == "NFC") {
    check_pipeline(description, path_);
    const BpeJson parsed = read_bpe_json(description, path_);
    bos_ = options.add_bos ? parsed.bos : std::nullopt;
    const ByteAlphabet alphabet;
    for (const std::string& token : parsed.tokens)
      tokens_.push_back(alphabet.bytes(token));
    for (int byte = 0; byte < 256; ++byte) {
      const auto found = parsed.ids.find(alphabet.spell(byte));
      check(found != parsed.ids.end() || never_in_utf8(byte), Error::Kind::Input,
            "{}: the vocabulary has no token for the single byte 0x{:02x}, so not every text can "
            "be encoded",
            path_, byte);
      byte_ids_[static_cast<size_t>(byte)] = found != parsed.ids.end() ? found->second : kNoToken;
    }
    add_merges(parsed);
    add_added(parsed, options);
  }

  std::string_view kind() const override { return "neox-bpe"; }
  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  std::optional<int64_t> bos() const override { return bos_; }
  std::optional<int64_t> eos() const override { return eos_; }

  size_t encode_piece(std::string_view text,
                      Piece piece,
                      std::vector<int32_t>& ids) const override {
    text = text.substr(0, piece.is_last ? text.size() : last_cut(text));
    if (text.empty() && !piece.is_last)
      return 0;
    if (bos_ && piece.is_first)
      ids.push_back(static_cast<int32_t>(*bos_));
    BpeEncoder encoder(merges_, text.size(), ids);
    std::string storage;
    const auto add_token = [&](int32_t id) { ids.push_back(id); };
    raw_tokens_.split(
        text,
        [&](std::string_view piece) {
          const std::string_view normal = nfc_ ? to_nfc(piece, storage) : piece;
          normal_tokens_.split(
              normal, [&](std::string_view words) { encode_words(words, encoder); }, add_token);
        },
        add_token);
    return text.size();
  }

  std::string decode_bytes(std::span<const int32_t> ids) const override {
    std::string bytes;
    for (const int32_t id : ids)
      if (id >= 0 && static_cast<size_t>(id) < tokens_.size())
        bytes += tokens_[static_cast<size_t>(id)];
    return bytes;
  }

  const std::string& hash() const override { return hash_; }
  std::string source() const override { return path_; }

 private:
  /// The last place of a text that goes on where it can be cut, 0 if there is none: a word surely
  /// ends there, no added token reaches across, and NFC leaves both sides alone.
  size_t last_cut(std::string_view text) const {
    for (size_t at = text.size(); at > 1;) {
      --at;
      const char next = text[at];
      if (static_cast<unsigned char>(next) >= 0x80 || added_.may_continue(next))
        continue;
      const CodePoint before = first_code_point(text.substr(code_point_before(text, at)));
      const CharClass before_class = char_class(before.value);
      // Behind white space and ' it depends on what follows whether a word goes on.
      if (before_class != CharClass::Space && before.value != U'\'' && is_nfc_plain(before.value) &&
          before_class != char_class(static_cast<char32_t>(next)))
        return at;
    }
    return 0;
  }

  /// Runs of spaces aside, which begin behind the place where a text is cut before a space.
  void keep_whole(std::string_view token) {
    if (token.find_first_not_of(' ') != token.npos)
      added_.keep_whole(token);
  }

  void add_merges(const BpeJson& parsed) {
    for (int32_t rank = 0; const BpeMerge& merge : parsed.merges) {
      const std::string& left = tokens_[static_cast<size_t>(merge.left)];
      const std::string& right = tokens_[static_cast<size_t>(merge.right)];
      const int32_t last_symbol = byte_ids_[static_cast<unsigned char>(left.back())];
      const int32_t first_symbol = byte_ids_[static_cast<unsigned char>(right.front())];
      if (last_symbol != kNoToken && first_symbol != kNoToken)  // else the text never has them
        merges_.add(merge, rank++, last_symbol, first_symbol);
    }
  }

  void add_added(const BpeJson& parsed, const TokenizerOptions& options) {
    std::vector<std::pair<std::string, int32_t>> raw, normal;
    for (const AddedToken& token : parsed.added) {
      if (token.special && token.content == "<|endoftext|>")
        eos_ = token.id;
      if (token.special && !options.parse_special)
        continue;
      std::string storage;
      keep_whole(token.content);
      keep_whole(to_nfc(token.content, storage));
      if (!token.normalized)
        raw.emplace_back(token.content, token.id);
      else
        normal.emplace_back(nfc_ ? to_nfc(token.content, storage) : token.content, token.id);
    }
    raw_tokens_ = AddedTokens(std::move(raw));
    normal_tokens_ = AddedTokens(std::move(normal));
  }

  void encode_words(std::string_view text, BpeEncoder& encoder) const {
    while (!text.empty()) {
      const size_t bytes = neox_word_bytes(text);
      for (const char c : text.substr(0, bytes))
        encoder.push(byte_ids_[static_cast<unsigned char>(c)]);
      encoder.flush();
      text.remove_prefix(bytes);
    }
  }

  std::string path_, hash_;
  bool nfc_;
  std::optional<int64_t> bos_, eos_;
  std::vector<std::string> tokens_;  // the bytes each id spells
  std::array<int32_t, 256> byte_ids_{};
  BpeMerges merges_;
  AddedTokens raw_tokens_, normal_tokens_;
  PieceCut added_;
};

}  // namespace

TokenizerPointer make_neox_tokenizer(const TokenizerFile& file,
                                     const json& description,
                                     const TokenizerOptions& options) {
  return std::make_shared<NeoxTokenizer>(file, description, options);
}

}  // namespace stuffed::io
