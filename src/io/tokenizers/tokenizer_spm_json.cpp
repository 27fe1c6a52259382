// SentencePiece BPE with byte fallback as Hugging Face converts it to tokenizer.json (Mistral,
// Llama): a stretch of text is one word, its spaces spelled U+2581; characters without a token
// become the tokens of their bytes. Source: the `tokenizers` package.
#include <nlohmann/json.hpp>

#include "added_tokens.h"
#include "bpe_json.h"
#include "character_bpe.h"
#include "src/io/utf8.h"
#include "stuffed/core/error.h"
#include "tokenizers.h"

namespace stuffed::io {

using nlohmann::json;

namespace {

// Where a space is put before the text.
struct Spaces {
  enum class Prefix { Never, First, Always } prefix = Prefix::Never;
  bool even_if_there = false;  // also before text that starts with a space already
};

class PipelineReader {
 public:
  PipelineReader(const json& description, const std::string& path)
      : description_(description), path_(path) {}

  // Older files: normalizer Prepend + Replace. Newer ones: pre-tokenizer Metaspace that does not
  // split.
  Spaces read() const {
    Spaces spaces;
    bool replaces = false;
    if (const json* normalizer = part("normalizer"))
      read_normalizer(*normalizer, spaces, replaces);
    if (const json* split = part("pre_tokenizer")) {
      require(split->value("type", json()) == "Metaspace" &&
                  split->value("replacement", json()) == kSpace &&
                  split->value("split", json(true)) == false,
              *split);
      const std::string scheme = split->value("prepend_scheme", json("always")).dump();
      require(scheme == "\"always\"" || scheme == "\"first\"" || scheme == "\"never\"", *split);
      if (scheme != "\"never\"")
        spaces.prefix = scheme == "\"first\"" ? Spaces::Prefix::First : Spaces::Prefix::Always;
      replaces = true;
    }
    require(replaces, description_.value("normalizer", json()));
    return spaces;
  }

 private:
  const json* part(const char* key) const {
    const bool present = description_.contains(key) && description_[key].is_object();
    return present ? &description_[key] : nullptr;
  }

  void require(bool condition, const json& what) const {
    check(condition, Error::Kind::Input,
          "{}: {} is not what a SentencePiece model converted to JSON has (Prepend and Replace, or "
          "Metaspace "
          "without split); give its tokenizer.model instead",
          path_, what.dump().substr(0, 200));
  }

  void read_normalizer(const json& normalizer, Spaces& spaces, bool& replaces) const {
    const std::string type = type_of({{"it", normalizer}}, "it");
    if (type == "Sequence") {
      require(normalizer.contains("normalizers") && normalizer["normalizers"].is_array(),
              normalizer);
      for (const json& inner : normalizer["normalizers"]) {
        require(type_of({{"it", inner}}, "it") != "Sequence", normalizer);
        read_normalizer(inner, spaces, replaces);
      }
    } else if (type == "Prepend") {
      require(!replaces && normalizer.value("prepend", json()) == kSpace, normalizer);
      spaces = {Spaces::Prefix::Always, /*even_if_there=*/true};
    } else {
      require(type == "Replace" && normalizer.value("content", json()) == kSpace &&
                  normalizer.value("pattern", json()) == json{{"String", " "}},
              normalizer);
      replaces = true;
    }
  }

  const json& description_;
  const std::string& path_;
};

class SpmJsonTokenizer final : public Tokenizer {
 public:
  SpmJsonTokenizer(const TokenizerFile& file,
                   const json& description,
                   const TokenizerOptions& options)
      : path_(file.path), hash_(file.hash), spaces_(PipelineReader(description, path_).read()) {
    BpeJson parsed = read_bpe_json(description, path_);
    bos_ = options.add_bos ? parsed.bos : std::nullopt;
    tokens_ = std::move(parsed.tokens);
    spells_.assign(tokens_.size(), kSpelled);
    for (int byte = 0; byte < 256; ++byte) {
      const auto found = parsed.ids.find(fmt::format("<0x{:02X}>", byte));
      check(found != parsed.ids.end(), Error::Kind::Input,
            "{}: the vocabulary has no token <0x{:02X}>, so not every text can be encoded", path_,
            byte);
      bpe_.set_byte(byte, found->second);
      spells_[static_cast<size_t>(found->second)] = static_cast<int16_t>(byte);
    }
    for (const auto& [token, id] : parsed.ids)
      if (const CodePoint only = first_code_point(token);
          static_cast<size_t>(only.bytes) == token.size())
        bpe_.add_character(only.value, id);
    for (int32_t rank = 0; const BpeMerge& merge : parsed.merges)
      add_merge(merge, rank++);
    add_added(parsed.added, options);
  }

  std::string_view kind() const override { return "sentencepiece"; }
  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  std::optional<int64_t> bos() const override { return bos_; }
  std::optional<int64_t> eos() const override { return eos_; }

  size_t encode_piece(std::string_view text,
                      Piece piece,
                      std::vector<int32_t>& ids) const override {
    text = text.substr(0, piece.is_last ? text.size() : bpe_.last_cut(text, cut_));
    if (text.empty() && !piece.is_last)
      return 0;
    if (bos_ && piece.is_first)
      ids.push_back(static_cast<int32_t>(*bos_));
    BpeEncoder encoder(bpe_.merges(), text.size(), ids);
    special_.split(
        text,
        [&](std::string_view segment) {
          const bool at_front = segment.data() == text.data();
          if (at_front && !piece.is_first) {
            bpe_.push(segment, encoder);
            encoder.flush();
          } else {
            encode_segment(segment, at_front, encoder);
          }
        },
        [&](int32_t id) { ids.push_back(id); });
    return text.size();
  }

  std::string decode_bytes(std::span<const int32_t> ids) const override {
    std::string bytes;
    for (const int32_t id : ids)
      append(id, bytes);
    return bytes;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text, run;
    const auto end_run = [&] {  // a run of byte tokens is text as a whole, or a U+FFFD for each
      if (find_invalid_utf8(run) == std::string_view::npos)
        text += run;
      else
        for (size_t i = 0; i < run.size(); ++i)
          text += "\xEF\xBF\xBD";
      run.clear();
    };
    for (const int32_t id : ids) {
      const bool is_byte = known(id) && spells_[static_cast<size_t>(id)] >= 0;
      if (!is_byte && known(id) && spells_[static_cast<size_t>(id)] == kSpelled)
        end_run();
      append(id, is_byte ? run : text);
    }
    end_run();
    return text.starts_with(' ') ? text.substr(1) : text;
  }

  const std::string& hash() const override { return hash_; }
  std::string source() const override { return path_; }

 private:
  static constexpr int16_t kSpelled = -1, kSilent = -2;  // in spells_; else a byte

  bool known(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < tokens_.size(); }

  void append(int32_t id, std::string& out) const {
    if (!known(id) || spells_[static_cast<size_t>(id)] == kSilent)
      return;
    if (const int16_t byte = spells_[static_cast<size_t>(id)]; byte >= 0) {
      out.push_back(static_cast<char>(byte));
      return;
    }
    for (std::string_view rest = tokens_[static_cast<size_t>(id)]; !rest.empty();) {
      const bool space = rest.starts_with(kSpace);
      out.push_back(space ? ' ' : rest[0]);
      rest.remove_prefix(space ? kSpace.size() : 1);
    }
  }

  void add_merge(const BpeMerge& merge, int32_t rank) {
    const std::string& left = tokens_[static_cast<size_t>(merge.left)];
    const std::string& right = tokens_[static_cast<size_t>(merge.right)];
    check(spells_[static_cast<size_t>(merge.left)] == kSpelled &&
              spells_[static_cast<size_t>(merge.right)] == kSpelled,
          Error::Kind::Input,
          "{}: the tokens '{}' and '{}' merge, but one of them stands for a byte", path_, left,
          right);
    bpe_.add_merge(merge, rank, left, right);
  }

  void add_added(const std::vector<AddedToken>& added, const TokenizerOptions& options) {
    std::vector<std::pair<std::string, int32_t>> special;
    for (const AddedToken& token : added) {
      if (token.special)
        spells_[static_cast<size_t>(token.id)] = kSilent;
      if (token.content == "</s>")
        eos_ = token.id;
      check(!token.normalized, Error::Kind::Input,
            "{}: the added token '{}' is looked for after normalization, which is not supported; "
            "give "
            "its tokenizer.model instead",
            path_, token.content);
      if (!token.special || options.parse_special)
        cut_.keep_whole(token.content);
      if (!token.special || options.parse_special)
        special.emplace_back(token.content, token.id);
    }
    special_ = AddedTokens(std::move(special));
  }

  void encode_segment(std::string_view text, bool is_first, BpeEncoder& encoder) const {
    const bool has_space = text.starts_with(' ') || text.starts_with(kSpace);
    const bool wanted = spaces_.prefix == Spaces::Prefix::Always ||
                        (spaces_.prefix == Spaces::Prefix::First && is_first);
    if (wanted && (spaces_.even_if_there || !has_space))
      bpe_.push(kSpace, encoder);
    bpe_.push(text, encoder);
    encoder.flush();
  }

  std::string path_, hash_;
  Spaces spaces_;
  std::optional<int64_t> bos_, eos_;
  std::vector<std::string> tokens_;  // by id, as the file spells them
  std::vector<int16_t> spells_;      // by id
  CharacterBpe bpe_;
  AddedTokens special_;
  PieceCut cut_;
};

}  // namespace

TokenizerPointer make_spm_json_tokenizer(const TokenizerFile& file,
                                         const json& description,
                                         const TokenizerOptions& options) {
  return std::make_shared<SpmJsonTokenizer>(file, description, options);
}

}  // namespace stuffed::io
