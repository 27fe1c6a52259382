#include "spm_bpe.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "src/io/utf8.h"
#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

constexpr size_t kLongestPiece = 1024;  // trained ones have 16 characters; finding splits is square
using Ids = std::unordered_map<std::string_view, int32_t>;

bool is_one_character(std::string_view text) {
  return static_cast<size_t>(first_code_point(text).bytes) == text.size();
}

// Text is UTF-8, so a piece that is not never occurs.
bool occurs(const SpmPiece& piece) {
  return !piece.text.empty() && find_invalid_utf8(piece.text) == std::string_view::npos;
}

bool simply_encodes(const SpmModel& model) {
  bool has_bytes = false, has_unused = false;
  for (const SpmPiece& piece : model.pieces) {
    has_bytes = has_bytes || piece.type == SpmPiece::Byte;
    has_unused = has_unused || piece.type == SpmPiece::Unused;
  }
  return model.model_type == 2 && has_bytes && !has_unused && !model.has_character_map &&
         !model.remove_extra_whitespaces && model.escape_whitespaces && !model.whitespace_is_suffix;
}

// Places between two characters of a piece: calls on_split(left, right).
template <class OnSplit>
void for_each_split(std::string_view piece, const OnSplit& on_split) {
  for (size_t at = 1; at < piece.size(); ++at)
    if ((static_cast<unsigned char>(piece[at]) & 0xC0) != 0x80)
      on_split(piece.substr(0, at), piece.substr(at));
}

// The best score has rank 0; equal scores have equal ranks.
std::vector<int32_t> ranks(const std::vector<SpmPiece>& pieces, const std::string& path) {
  std::vector<float> scores;
  for (const SpmPiece& piece : pieces) {
    check(!std::isnan(piece.score), Error::Kind::Input,
          "{}: the score of piece '{}' is not a number", path, piece.text);
    scores.push_back(piece.score);
  }
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
  std::vector<int32_t> out;
  for (const SpmPiece& piece : pieces)
    out.push_back(static_cast<int32_t>(
        std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>()) -
        scores.begin()));
  return out;
}

// Every two pieces that spell a third one merge into it.
void add_merges(const Ids& ids, const std::vector<int32_t>& ranks, CharacterBpe& bpe) {
  for (const auto& [piece, id] : ids)
    for_each_split(piece, [&, id = id](std::string_view left, std::string_view right) {
      const auto first = ids.find(left), second = ids.find(right);
      if (first != ids.end() && second != ids.end())
        bpe.add_merge({first->second, second->second, id}, ranks[static_cast<size_t>(id)], left,
                      right);
    });
}

bool only_of(std::string_view piece, const std::unordered_set<std::string_view>& characters) {
  bool out = true;
  while (out && !piece.empty()) {
    const auto bytes = static_cast<size_t>(first_code_point(piece).bytes);
    out = characters.contains(piece.substr(0, bytes));
    piece.remove_prefix(bytes);
  }
  return out;
}

}  // namespace

std::optional<SpmBpe> SpmBpe::make(const SpmModel& model, const std::string& path) {
  if (!simply_encodes(model))
    return std::nullopt;
  SpmBpe out;
  out.add_dummy_prefix_ = model.add_dummy_prefix;
  std::vector<std::pair<std::string, int32_t>> user_defined;
  std::unordered_set<std::string_view> characters;  // that are pieces
  Ids normal;
  for (int32_t id = 0; const SpmPiece& piece : model.pieces) {
    if (piece.type == SpmPiece::Byte)
      out.bpe_.set_byte(byte_of_piece(piece.text), id);
    const bool is_normal = piece.type == SpmPiece::Normal;
    if ((is_normal || piece.type == SpmPiece::UserDefined) && occurs(piece)) {
      if (is_one_character(piece.text))
        characters.insert(piece.text);
      if (!is_normal)
        user_defined.emplace_back(std::string(piece.text), id);
      else if (normal.emplace(piece.text, id); is_one_character(piece.text))
        out.bpe_.add_character(first_code_point(piece.text).value, id);
    }
    ++id;
  }
  for (const auto& [piece, id] : normal)
    if (piece.size() > kLongestPiece || !only_of(piece, characters))
      return std::nullopt;
  add_merges(normal, ranks(model.pieces, path), out.bpe_);
  out.user_defined_ = AddedTokens(std::move(user_defined));
  return out;
}

void SpmBpe::encode(std::string_view text,
                    bool goes_on,
                    BpeEncoder& encoder,
                    std::vector<int32_t>& ids) const {
  const std::string_view prefix = add_dummy_prefix_ && !goes_on ? kSpace : std::string_view();
  if (user_defined_.empty()) {
    bpe_.push(prefix, encoder);
    bpe_.push(text, encoder);
    return encoder.flush();
  }
  // Such pieces are looked for where spaces, the one before the text too, are spelled as in pieces.
  std::string spelled(prefix);
  for (const char c : text)
    c == ' ' ? void(spelled += kSpace) : spelled.push_back(c);
  user_defined_.split(
      spelled,
      [&](std::string_view between) {
        bpe_.push(between, encoder);
        encoder.flush();
      },
      [&](int32_t id) { ids.push_back(id); });
}

}  // namespace stuffed::io
