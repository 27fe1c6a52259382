// A text that repeats itself has the ids of the whole text, with every tokenizer, however little of
// it was encoded.
#include "src/io/documents/repeated_text.h"

#include <gtest/gtest.h>

#include "stuffed/core/rng.h"
#include "tests/io/tokenizer_support.h"

namespace stuffed::io {
namespace {

using stuffed::testing::tokenizer_files;
using Ids = std::vector<int32_t>;

std::string repeated(const std::string& unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes)
    text += unit;
  return text.substr(0, bytes);
}

Ids all_ids(RepeatedText& text, size_t bytes) {
  Ids ids;
  text.append(bytes, 0, text.count(bytes), ids);
  return ids;
}

const std::string kCapital = "The capital of China is Beijing. The capital of USA is Washington. ";

TEST(RepeatedText, IdsAreThoseOfTheWholeTextAtAnyLength) {
  for (const std::string& file : tokenizer_files()) {
    const auto tokenizer = load_tokenizer(file);
    Rng rng(5, file);
    for (const std::string& unit :
         {std::string("\n"), std::string(" "), std::string("ab"), std::string("aaaaaaab"),
          std::string("don't 12\n\n  "), std::string("中文 é"), std::string("x"), kCapital}) {
      RepeatedText text(*tokenizer, unit);
      std::vector<size_t> lengths = {1, 100, 65535 / unit.size() * unit.size()};
      for (int i = 0; i < 3; ++i)
        lengths.push_back((65536 + rng.below(3000)) / unit.size() * unit.size() + unit.size());
      for (const size_t bytes : lengths) {
        const size_t whole = std::max<size_t>(1, bytes / unit.size()) * unit.size();
        ASSERT_EQ(all_ids(text, whole), tokenizer->encode(repeated(unit, whole)))
            << file << ": " << whole << " bytes of '" << unit << "'";
      }
    }
  }
}

TEST(RepeatedText, EveryRemainderOfALineOfLineFeedsEndsAsItShould) {
  for (const std::string& file : tokenizer_files()) {
    const auto tokenizer = load_tokenizer(file);
    RepeatedText text(*tokenizer, "\n");
    for (size_t bytes = 65536; bytes < 65536 + 20; ++bytes)
      ASSERT_EQ(all_ids(text, bytes), tokenizer->encode(std::string(bytes, '\n')))
          << file << ": " << bytes;
  }
}

TEST(RepeatedText, LittleOfALongTextIsEncoded) {
  for (const std::string& file : tokenizer_files())
    for (const std::string& unit : {std::string("\n"), kCapital}) {
      const auto tokenizer = load_tokenizer(file);
      RepeatedText text(*tokenizer, unit);
      EXPECT_GT(text.count(unit.size() * 10'000'000), 100'000) << file;
      EXPECT_LT(text.encoded_bytes(), 200'000u) << file << ": " << unit;
    }
}

TEST(RepeatedText, PartsOfTheIdsAreThoseOfTheWhole) {
  const auto tokenizer = load_tokenizer("bytes");
  RepeatedText text(*tokenizer, "abc");
  const Ids all = all_ids(text, 90000);
  for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 0}, {0, 1}, {8000, 8300}, {8191, 8195}, {16000, 81001}, {89998, 90000}}) {
    Ids part = {7};
    text.append(90000, begin, end, part);
    Ids expected = {7};
    expected.insert(expected.end(), all.begin() + begin, all.begin() + end);
    EXPECT_EQ(part, expected) << begin << " to " << end;
  }
}

/// Bytes, but for what `change` makes of them.
class ChangedBytes final : public Tokenizer {
 public:
  using Change = std::function<int32_t(size_t at, size_t size)>;
  explicit ChangedBytes(Change change) : change_(std::move(change)) {}
  std::string_view kind() const override { return "changed"; }
  int64_t vocab_size() const override { return int64_t{1} << 31; }
  std::optional<int64_t> bos() const override { return {}; }
  std::optional<int64_t> eos() const override { return {}; }
  size_t encode_piece(std::string_view text, Piece, std::vector<int32_t>& ids) const override {
    for (size_t i = 0; i < text.size(); ++i)
      ids.push_back(change_(i, text.size()));
    return text.size();
  }
  std::string decode_bytes(std::span<const int32_t> ids) const override {
    return std::string(ids.size(), 'a');
  }
  const std::string& hash() const override { return name_; }
  std::string source() const override { return name_; }

 private:
  Change change_;
  std::string name_ = "changed";
};

TEST(RepeatedText, WhatDoesNotRepeatIsEncodedWhole) {
  const std::vector<ChangedBytes::Change> changes = {
      [](size_t at, size_t) { return static_cast<int32_t>(at); },         // no cycle
      [](size_t at, size_t) { return static_cast<int32_t>(at % 1000); },  // a long one
      [](size_t at, size_t) { return at < 20000 ? 1 : 2; },               // up to a place
      [](size_t, size_t size) { return size < 20000 ? 1 : 2; },           // in short texts
      [](size_t at, size_t size) { return at + 9000 > size ? 1 : 2; }};   // an end of all lengths
  for (size_t i = 0; i < changes.size(); ++i) {
    const ChangedBytes tokenizer(changes[i]);
    RepeatedText text(tokenizer, "a");
    EXPECT_EQ(all_ids(text, 100000), tokenizer.encode(std::string(100000, 'a'))) << i;
    EXPECT_GE(text.encoded_bytes(), 100000u) << i;
  }
}

}  // namespace
}  // namespace stuffed::io
