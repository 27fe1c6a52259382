// The RWKV "World" tokenizer: the longest vocabulary entry that the rest of the text starts with,
// over raw bytes, from left to right. Source: BlinkDL/RWKV-LM, rwkv_vocab_v20230424.txt and
// rwkv_tokenizer.py.
#include <algorithm>
#include <charconv>

#include "byte_trie.h"
#include "src/io/utf8.h"
#include "stuffed/core/error.h"
#include "tokenizers.h"

namespace stuffed::io {

namespace {

constexpr int32_t kEndOfText = 0;            // not in the file
constexpr size_t kMaxIds = size_t{1} << 24;  // far above any published vocabulary

// One vocabulary line, for messages.
struct Line {
  const std::string& path;
  int64_t number;

  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> message, Args&&... args) const {
    if (!condition) [[unlikely]]
      fail(Error::Kind::Input,
           "{}, line {}: {}; a World vocabulary line is <id> <Python literal> <length in bytes>, "
           "as in rwkv_vocab_v20230424.txt",
           path, number, fmt::format(message, std::forward<Args>(args)...));
  }
};

int64_t parse_decimal(std::string_view digits, std::string_view what, const Line& line) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  line.check(error == std::errc() && end == digits.data() + digits.size() && value >= 0,
             "the {} '{}' is not a decimal number", what, replace_invalid_utf8(digits));
  return value;
}

// Decodes the escapes of a Python literal. The trap: \xE9 is a code point (two bytes of UTF-8) in
// '...', one raw byte in b'...'.
class LiteralReader {
 public:
  LiteralReader(std::string_view literal, const Line& line) : rest_(literal), line_(line) {
    is_bytes_ = !rest_.empty() && rest_[0] == 'b';
    if (is_bytes_)
      rest_.remove_prefix(1);
    const bool quoted =
        rest_.size() >= 2 && (rest_[0] == '\'' || rest_[0] == '"') && rest_.back() == rest_[0];
    line_.check(quoted, "the literal is not in quotes");
    quote_ = rest_[0];
    rest_ = rest_.substr(1, rest_.size() - 2);
  }

  std::string read() {
    std::string bytes;
    while (!rest_.empty()) {
      const char c = take();
      line_.check(c != quote_, "an unescaped quote inside the literal");
      if (c == '\\')
        escape(bytes);
      else
        bytes.push_back(c);
    }
    return bytes;
  }

 private:
  char take() {
    line_.check(!rest_.empty(), "the literal ends in the middle of an escape");
    const char c = rest_[0];
    rest_.remove_prefix(1);
    return c;
  }

  void escape(std::string& bytes) {
    const char c = take();
    switch (c) {
      case 'x':
        return code(2, bytes);
      case 'u':
        return code(4, bytes);
      case 'U':
        return code(8, bytes);
      case 'a':
        return bytes.push_back('\a');
      case 'b':
        return bytes.push_back('\b');
      case 'f':
        return bytes.push_back('\f');
      case 'n':
        return bytes.push_back('\n');
      case 'r':
        return bytes.push_back('\r');
      case 't':
        return bytes.push_back('\t');
      case 'v':
        return bytes.push_back('\v');
      case '\\':
      case '\'':
      case '"':
        return bytes.push_back(c);
      default:
        line_.check(false, "unknown escape '\\{}'", replace_invalid_utf8({&c, 1}));
    }
  }

  void code(size_t digits, std::string& bytes) {
    line_.check(rest_.size() >= digits, "the literal ends in the middle of an escape");
    line_.check(!is_bytes_ || digits == 2, "\\u in a bytes literal");
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + digits, value, 16);
    line_.check(error == std::errc() && end == rest_.data() + digits,
                "an escape is not hexadecimal");
    line_.check(value <= 0x10FFFF && (value < 0xD800 || value > 0xDFFF),
                "an escape is not a Unicode character");
    rest_.remove_prefix(digits);
    if (is_bytes_)
      bytes.push_back(static_cast<char>(value));
    else
      append_utf8(value, bytes);
  }

  std::string_view rest_;
  const Line& line_;
  bool is_bytes_ = false;
  char quote_ = 0;
};

class RwkvTokenizer final : public Tokenizer {
 public:
  explicit RwkvTokenizer(const TokenizerFile& file) : path_(file.path), hash_(file.hash) {
    std::vector<std::pair<std::string, int32_t>> words;
    std::string_view rest = file.content;
    for (int64_t number = 1; !rest.empty(); ++number) {
      const size_t end = rest.find('\n');
      add_line(rest.substr(0, end), {path_, number}, words);
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    }
    trie_ = ByteTrie(std::move(words));
    for (int byte = 0; byte < 256; ++byte)
      check(
          trie_.longest(std::string(1, static_cast<char>(byte))).bytes == 1, Error::Kind::Input,
          "{}: the vocabulary has no token for the single byte 0x{:02x}, so not every text can be "
          "encoded; is the file complete?",
          path_, byte);
  }

  std::string_view kind() const override { return "rwkv-world"; }
  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  std::optional<int64_t> bos() const override { return std::nullopt; }
  std::optional<int64_t> eos() const override { return kEndOfText; }

  size_t encode_piece(std::string_view text,
                      Piece piece,
                      std::vector<int32_t>& ids) const override {
    // A word that ends where the piece does might be the beginning of a longer one.
    const size_t least = piece.is_last ? 1 : longest_word_;
    const size_t before = text.size();
    while (text.size() >= least) {
      const ByteTrie::Match match = trie_.longest(text);
      ids.push_back(match.value);
      text.remove_prefix(match.bytes);
    }
    return before - text.size();
  }
  bool needs_utf8() const override { return false; }

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
  void add_line(std::string_view text,
                const Line& line,
                std::vector<std::pair<std::string, int32_t>>& words) {
    if (text.ends_with('\r'))
      text.remove_suffix(1);
    const size_t first = text.find(' '), last = text.rfind(' ');
    line.check(first != std::string_view::npos && last > first, "found no three fields");
    const auto id = static_cast<size_t>(parse_decimal(text.substr(0, first), "id", line));
    const int64_t length = parse_decimal(text.substr(last + 1), "length", line);
    std::string bytes = LiteralReader(text.substr(first + 1, last - first - 1), line).read();
    line.check(static_cast<int64_t>(bytes.size()) == length,
               "the literal has {} bytes, but the line says {}", bytes.size(), length);
    line.check(!bytes.empty(), "an empty token");
    // Published files count up without gaps. This also bounds the table by the file's own size.
    line.check(id < kMaxIds && id == std::max<size_t>(tokens_.size(), 1),
               "the id is {}, expected {}", id, std::max<size_t>(tokens_.size(), 1));
    tokens_.resize(id + 1);
    tokens_[id] = bytes;
    longest_word_ = std::max(longest_word_, bytes.size());
    words.emplace_back(std::move(bytes), static_cast<int32_t>(id));
  }

  std::string path_, hash_;
  std::vector<std::string> tokens_;  // by id; that of kEndOfText is empty
  size_t longest_word_ = 1;          // bytes
  ByteTrie trie_;
};

}  // namespace

TokenizerPointer make_rwkv_tokenizer(const TokenizerFile& file) {
  return std::make_shared<RwkvTokenizer>(file);
}

}  // namespace stuffed::io
