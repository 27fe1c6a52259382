#include "json_field.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

constexpr size_t kMostDepth = 256;
constexpr size_t kMostKeyBytes = size_t{1} << 24;
constexpr size_t kKeyOverhead = 64;  // bytes a key takes beside its text
constexpr size_t kMostScalar = 4096;

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

bool is_scalar(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
         c == '+' || c == '.';
}

size_t digits_at(std::string_view text) {
  return std::min(text.find_first_not_of("0123456789"), text.size());
}

/// By the grammar of JSON, of any size.
bool is_number(std::string_view text) {
  const auto skip = [&](size_t n) { text.remove_prefix(n); };
  skip(text.starts_with('-'));
  const size_t whole = digits_at(text);
  if (whole == 0 || (text[0] == '0' && whole > 1))
    return false;
  skip(whole);
  if (text.starts_with('.')) {
    skip(1);
    const size_t fraction = digits_at(text);
    if (fraction == 0)
      return false;
    skip(fraction);
  }
  if (text.starts_with('e') || text.starts_with('E')) {
    skip(1);
    skip(text.starts_with('+') || text.starts_with('-'));
    const size_t exponent = digits_at(text);
    if (exponent == 0)
      return false;
    skip(exponent);
  }
  return text.empty();
}

std::vector<std::string> keys_of(const std::string& field) {
  std::vector<std::string> keys;
  for (size_t begin = 0; begin <= field.size();) {
    const size_t dot = std::min(field.find('.', begin), field.size());
    keys.push_back(field.substr(begin, dot - begin));
    begin = dot + 1;
  }
  return keys;
}

std::string_view type_of(char first) {
  switch (first) {
    case '{':
      return "object";
    case '[':
      return "array";
    case 't':
    case 'f':
      return "boolean";
    case 'n':
      return "null";
    default:
      return "number";
  }
}

}  // namespace

JsonField::JsonField(const std::string& field, std::string where, OnText on_text)
    : JsonField(keys_of(field), 0, false, field, std::move(where), std::move(on_text)) {}

JsonField::JsonField(std::vector<std::string> keys,
                     int level,
                     bool is_inner,
                     std::string field,
                     std::string where,
                     OnText on_text)
    : keys_(std::move(keys)),
      is_inner_(is_inner),
      field_(std::move(field)),
      where_(std::move(where)),
      on_text_(std::move(on_text)),
      level_(level) {}

void JsonField::refuse(const std::string& why) const {
  fail(Error::Kind::Input, "{}: not JSON at byte {}{}: {}", where_, bytes_,
       is_inner_ ? " of the JSON held in a string" : "", why);
}

void JsonField::no_field(int level) const {
  fail(Error::Kind::Input, "{}: has no field '{}' (--field {})", where_,
       keys_[static_cast<size_t>(level)], field_);
}

void JsonField::no_text(std::string_view type) const {
  fail(Error::Kind::Input, "{}: field '{}' is {}, expected a string", where_, field_, type);
}

void JsonField::add(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  for (; bytes_ == mark_ && mark_ < kByteOrderMark.size() && !text.empty() &&
         text[0] == kByteOrderMark[mark_];
       ++mark_, ++bytes_)
    text.remove_prefix(1);
  if (mark_ % kByteOrderMark.size() != 0 && !text.empty())
    refuse("expected a value");
  while (!text.empty())
    text.remove_prefix(step(text));
}

/// Reads what belongs together; returns how many bytes that was.
size_t JsonField::step(std::string_view text) {
  const char c = text[0];
  if (state_ == State::String)
    return string_run(text);
  if (state_ == State::Scalar && !is_scalar(c))
    end_scalar();  // and `c` is of the structure around it
  ++bytes_;
  if (state_ == State::Scalar) {
    scalar_.push_back(c);
    if (scalar_.size() > kMostScalar)
      refuse(fmt::format("a number or word of more than {} characters", kMostScalar));
  } else if (state_ == State::Escape) {
    escape(c);
  } else if (state_ == State::Unicode) {
    unicode(c);
  } else if (!is_space(c)) {
    structure(c);
  }
  return 1;
}

void JsonField::structure(char c) {
  switch (state_) {
    case State::FirstElement:
      if (c == ']')
        return close();
      [[fallthrough]];
    case State::Value:
      return begin_value(c);
    case State::FirstKey:
      if (c == '}')
        return close();
      [[fallthrough]];
    case State::Key:
      if (c != '"')
        refuse("expected a key in quotes");
      return begin_string(/*is_key=*/true);
    case State::Colon:
      if (c != ':')
        refuse("expected ':' behind a key");
      state_ = State::Value;
      return;
    case State::AfterValue:
      if (c == ',') {
        state_ = open_.back().is_object ? State::Key : State::Value;
        level_ = kOffPath;
      } else if (c == (open_.back().is_object ? '}' : ']')) {
        close();
      } else {
        refuse(open_.back().is_object ? "expected ',' or '}'" : "expected ',' or ']'");
      }
      return;
    default:
      refuse("something follows the value");
  }
}

void JsonField::begin_value(char c) {
  if (c != '{' && c != '[' && c != '"' && !is_scalar(c))
    refuse("expected a value");
  if (is_wanted() && c != '"')
    no_text(type_of(c));
  if (descends() && c != '{' && (c != '"' || (is_inner_ && open_.empty()))) {
    check(!open_.empty() || is_inner_, Error::Kind::Input,
          "{}: is not a JSON object, and so has no field '{}' (--field {})", where_,
          keys_[static_cast<size_t>(level_)], field_);
    no_field(level_);
  }
  if (c == '"')
    return begin_string(/*is_key=*/false);
  if (c == '{' || c == '[')
    return open(c == '{');
  scalar_.assign(1, c);
  state_ = State::Scalar;
}

void JsonField::open(bool is_object) {
  check(open_.size() < kMostDepth, Error::Kind::Input, "{}: nested deeper than {} levels", where_,
        kMostDepth);
  open_.push_back({.is_object = is_object, .level = is_object ? level_ : kOffPath});
  level_ = kOffPath;
  state_ = is_object ? State::FirstKey : State::FirstElement;
}

void JsonField::close() {
  const Container& closed = open_.back();
  if (closed.level != kOffPath && !closed.keys.contains(keys_[static_cast<size_t>(closed.level)]))
    no_field(closed.level);
  key_bytes_ -= closed.key_bytes;
  open_.pop_back();
  end_value();
}

void JsonField::end_value() {
  level_ = kOffPath;
  state_ = open_.empty() ? State::End : State::AfterValue;
}

void JsonField::begin_string(bool is_key) {
  is_key_ = is_key;
  state_ = State::String;
  utf8_ = {};
  string_begin_ = bytes_;
  if (is_key)
    key_.clear();
  else if (descends())
    inner_.reset(new JsonField(keys_, level_, /*is_inner=*/true, field_, where_, on_text_));
}

/// As many plain characters as there are, or one that is none.
size_t JsonField::string_run(std::string_view text) {
  const auto is_plain = [](char c) {
    return c != '"' && c != '\\' && static_cast<unsigned char>(c) >= 0x20;
  };
  const auto end = std::find_if_not(text.begin(), text.end(), is_plain);
  const auto run = static_cast<size_t>(end - text.begin());
  if (high_ != 0 && (run > 0 || text[0] != '\\'))
    refuse("half of a surrogate pair stands alone");
  if (run > 0) {
    bytes_ += run;
    if (utf8_.add(text.substr(0, run)) != text.npos)
      refuse("a string is not UTF-8");
    emit(text.substr(0, run));
    return run;
  }
  ++bytes_;
  if (utf8_.open_bytes() > 0)
    refuse("a string is not UTF-8");
  if (static_cast<unsigned char>(text[0]) < 0x20)
    refuse("a control character in a string; it must be written as an escape");
  if (text[0] == '\\')
    state_ = State::Escape;
  else
    end_string();
  return 1;
}

void JsonField::escape(char c) {
  constexpr std::string_view kNames = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
  if (c == 'u') {
    code_ = 0;
    digits_ = 0;
    state_ = State::Unicode;
    return;
  }
  const size_t which = kNames.find(c);
  if (which == kNames.npos || high_ != 0)
    refuse(high_ != 0 ? "half of a surrogate pair stands alone" : "an unknown escape");
  emit(kMeant.substr(which, 1));
  state_ = State::String;
}

void JsonField::unicode(char c) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  const size_t digit = kDigits.find(c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c);
  if (digit == kDigits.npos)
    refuse("\\u needs four hexadecimal digits");
  code_ = code_ * 16 + static_cast<uint32_t>(digit);
  if (++digits_ < 4)
    return;
  state_ = State::String;
  const bool is_low = code_ >= 0xDC00 && code_ <= 0xDFFF;
  if (is_low != (high_ != 0))
    refuse("half of a surrogate pair stands alone");
  if (code_ >= 0xD800 && code_ <= 0xDBFF) {
    high_ = code_;
    return;
  }
  std::string character;
  append_utf8(is_low ? 0x10000 + ((high_ - 0xD800) << 10) + (code_ - 0xDC00) : code_, character);
  high_ = 0;
  emit(character);
}

void JsonField::emit(std::string_view text) {
  if (is_key_) {
    key_ += text;
    if (key_bytes_ + key_.size() > kMostKeyBytes)
      refuse("keys of more than 16 MiB");
  } else if (inner_) {
    inner_->add(text);
  } else if (is_wanted()) {
    on_text_(text);
  }
}

void JsonField::end_string() {
  if (is_key_)
    return end_key();
  if (inner_) {
    inner_->finish();
    inner_.reset();
  }
  end_value();
}

void JsonField::end_key() {
  Container& object = open_.back();
  const size_t bytes = key_.size() + kKeyOverhead;
  object.key_bytes += bytes;
  key_bytes_ += bytes;
  if (key_bytes_ > kMostKeyBytes)
    refuse("keys of more than 16 MiB");
  check(object.keys.insert(key_).second, Error::Kind::Input,
        "{}: the key {:?} occurs twice in one object", where_, key_.substr(0, 200));
  const bool leads_on =
      object.level != kOffPath && key_ == keys_[static_cast<size_t>(object.level)];
  level_ = leads_on ? object.level + 1 : kOffPath;
  state_ = State::Colon;
}

void JsonField::end_scalar() {
  for (const std::string_view word : {"true", "false", "null", "NaN", "Infinity", "-Infinity"})
    if (scalar_ == word)
      return end_value();
  if (!is_number(scalar_))
    refuse(fmt::format("{:?} is no value", scalar_.substr(0, 50)));
  if (!std::isfinite(std::strtod(scalar_.c_str(), nullptr)))
    refuse("a number beyond the range of f64");
  end_value();
}

void JsonField::finish() {
  if (state_ == State::Scalar)
    end_scalar();
  ++bytes_;  // where the next one is missed
  if (state_ != State::End)
    refuse("it ends in the middle");
}

}  // namespace stuffed::io
