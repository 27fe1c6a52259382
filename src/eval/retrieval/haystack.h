// What needles are hidden in: lines of filler, or the sentences of a text.
#pragma once
#include <filesystem>
#include <optional>

#include "stuffed/eval/prompt_runs.h"

namespace stuffed::eval {

/// Consecutive sentences of a text, runs of white space as one space. All but the first begin with
/// the space before them, so that together they are the text.
std::vector<std::string> sentences_of(std::string_view text);

class Haystack {
 public:
  /// Lines of filler if `text` is empty.
  /// Errors  Input if the text cannot be read, is not UTF-8, or empty
  Haystack(const io::Tokenizer& tokenizer, const std::filesystem::path& text);

  /// Units [first, first + count).
  Piece piece(int64_t first, int64_t count) const;
  /// A needle before the unit of this number.
  std::string as_unit(const std::string& needle, int64_t place) const;
  /// What is put between the last unit and the question.
  std::string_view end() const { return units_ ? "\n" : ""; }
  /// The most first units that have so many tokens.
  /// Errors  Usage if the text has fewer
  int64_t units_within(int64_t tokens) const;
  int64_t tokens_of(int64_t units) const;

 private:
  std::filesystem::path path_;
  std::optional<TextUnits> units_;
  int64_t filler_tokens_ = 0;  // of a line inside a text
};

}  // namespace stuffed::eval
