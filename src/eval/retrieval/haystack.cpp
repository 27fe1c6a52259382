#include "haystack.h"

#include <algorithm>

#include "stuffed/core/error.h"
#include "stuffed/io/needle_text.h"
#include "stuffed/io/regular_file.h"

namespace stuffed::eval {

namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";

bool ends_sentence(std::string_view word) {
  const size_t last = word.find_last_not_of("\"')]");
  return last != word.npos && std::string_view(".!?").find(word[last]) != word.npos;
}

}  // namespace

std::vector<std::string> sentences_of(std::string_view text) {
  std::vector<std::string> sentences;
  bool is_open = false;
  for (size_t begin = text.find_first_not_of(kSpace); begin != text.npos;) {
    const size_t end = std::min(text.find_first_of(kSpace, begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    if (!is_open)
      sentences.emplace_back();
    if (begin > 0 && (is_open || sentences.size() > 1))
      sentences.back().push_back(' ');
    sentences.back().append(word);
    is_open = !ends_sentence(word);
    begin = text.find_first_not_of(kSpace, end);
  }
  return sentences;
}

Haystack::Haystack(const io::Tokenizer& tokenizer, const std::filesystem::path& text)
    : path_(text) {
  if (text.empty()) {
    const std::string line(io::needles::kFiller);
    filler_tokens_ = std::ssize(tokenizer.encode(line + line + line)) -
                     std::ssize(tokenizer.encode(line + line));
    return;
  }
  units_.emplace(tokenizer, sentences_of(io::read_regular_file(text)));
  check(units_->size() > 0, Error::Kind::Input, "{}: holds no text", text.string());
}

Piece Haystack::piece(int64_t first, int64_t count) const {
  if (!units_)
    return {.text = std::string(io::needles::kFiller), .repeats = count};
  return {.text = {}, .repeats = count, .units = &*units_, .first = first};
}

std::string Haystack::as_unit(const std::string& needle, int64_t place) const {
  return !units_ ? needle + "\n" : place == 0 ? needle + " " : " " + needle;
}

int64_t Haystack::tokens_of(int64_t units) const {
  return units_ ? std::ssize(units_->tokens(0, units)) : units * filler_tokens_;
}

int64_t Haystack::units_within(int64_t tokens) const {
  if (!units_)
    return tokens / filler_tokens_;
  const int64_t all = tokens_of(units_->size());
  check(
      tokens <= all, Error::Kind::Usage,
      "--text {}: has {} tokens, and the longest of --lengths asks for {}; give a longer text (it "
      "is not repeated) or shorter lengths",
      path_.string(), all, tokens);
  int64_t low = 0, high = units_->size();
  while (low < high)
    if (const int64_t middle = (low + high + 1) / 2; tokens_of(middle) <= tokens)
      low = middle;
    else
      high = middle - 1;
  return low;
}

}  // namespace stuffed::eval
