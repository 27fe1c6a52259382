#include "utf8.h"

#include <cstdint>
#include <cstring>

#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

struct Sequence {
  size_t bytes;  // of the sequence, or of its longest valid beginning (at least 1)
  bool complete;
};

// Table 3-7 of the Unicode standard: the second byte's range depends on the first.
Sequence next_sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80)
    return {1, true};
  if (lead < 0xC2 || lead > 0xF4)
    return {1, false};
  const size_t wanted = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (text.size() < 2 || byte(1) < low || byte(1) > high)
    return {1, false};
  for (size_t i = 2; i < wanted; ++i)
    if (text.size() <= i || (byte(i) & 0xC0) != 0x80)
      return {i, false};
  return {wanted, true};
}

}  // namespace

void append_utf8(char32_t code_point, std::string& out) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

size_t find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight = 0;
    if (at + 8 <= text.size()) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080u) == 0) {
        at += 8;
        continue;
      }
    }
    const Sequence sequence = next_sequence(text.substr(at, 4));
    if (!sequence.complete)
      return at;
    at += sequence.bytes;
  }
  return std::string_view::npos;
}

size_t Utf8Stream::add(std::string_view piece) {
  while (!open_.empty() && !piece.empty()) {
    open_.push_back(piece[0]);
    piece.remove_prefix(1);
    ++bytes_;
    const Sequence sequence = next_sequence(open_);
    if (!sequence.complete && sequence.bytes < open_.size())
      return bytes_ - open_.size();
    if (sequence.complete)
      open_.clear();
  }
  const size_t before = bytes_;
  bytes_ += piece.size();
  const size_t at = find_invalid_utf8(piece);
  if (at == std::string_view::npos)
    return at;
  const std::string_view tail = piece.substr(at, 4);
  const auto lead = static_cast<unsigned char>(tail[0]);
  const bool may_go_on = at + tail.size() == piece.size() && lead >= 0xC2 && lead <= 0xF4 &&
                         next_sequence(tail).bytes == tail.size();
  if (!may_go_on)
    return before + at;
  open_ = tail;
  return std::string_view::npos;
}

void check_utf8(size_t invalid, std::string_view where) {
  check(invalid == std::string_view::npos, Error::Kind::Input,
        "{}: not UTF-8 at byte {}; convert the file to UTF-8, or repair the broken bytes", where,
        invalid);
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t valid = std::min(find_invalid_utf8(text), text.size());
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty())
      break;
    out.append("\xEF\xBF\xBD");
    text.remove_prefix(next_sequence(text.substr(0, 4)).bytes);
  }
  return out;
}

}  // namespace stuffed::io
