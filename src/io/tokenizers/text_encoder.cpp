#include "stuffed/io/text_encoder.h"

#include <algorithm>

#include "src/io/utf8.h"
#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

constexpr size_t kPiece = size_t{1} << 16;  // bytes

}  // namespace

TextEncoder::TextEncoder(const Tokenizer& tokenizer, std::string where, bool checks_utf8)
    : tokenizer_(tokenizer),
      where_(std::move(where)),
      utf8_(checks_utf8 ? std::make_unique<Utf8Stream>() : nullptr) {}
TextEncoder::~TextEncoder() = default;

void TextEncoder::add(std::string_view text, std::vector<int32_t>& ids) {
  if (utf8_)
    check_utf8(utf8_->add(text), where_);
  pending_ += text;
  if (pending_.size() < enough_)
    return;
  const size_t open = utf8_ ? utf8_->open_bytes() : 0;
  const size_t taken =
      tokenizer_.encode_piece(std::string_view(pending_).substr(0, pending_.size() - open),
                              {.is_first = is_first_, .is_last = false}, ids);
  pending_.erase(0, taken);
  is_first_ = is_first_ && taken == 0;
  // One word that goes on and on is looked at again when it has doubled, not at every piece.
  enough_ = std::max(kPiece, 2 * pending_.size());
}

void TextEncoder::finish(std::vector<int32_t>& ids) {
  if (utf8_)
    check_utf8(utf8_->end(), where_);
  tokenizer_.encode_piece(pending_, {.is_first = is_first_, .is_last = true}, ids);
  pending_ = {};
}

void check_document_size(const ByteStream& stream, size_t tokens) {
  constexpr size_t kMost = size_t{1} << 28;  // 1 GiB of ids
  check(stream.is_limited() || tokens < kMost, Error::Kind::Input,
        "{}: more than {} tokens in one document, and no end in sight; write the text to a file "
        "first, or give a --length",
        stream.name(), kMost);
}

}  // namespace stuffed::io
