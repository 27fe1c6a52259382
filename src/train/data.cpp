#include "stuffed/train/data.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/byte_stream.h"
#include "stuffed/io/passkey_text.h"

namespace stuffed::train {

namespace {

constexpr std::pair<Source, std::string_view> kSources[] = {
    {Source::Text, "text"}, {Source::Repeat, "repeat"}, {Source::Passkey, "passkey"}};

uint64_t unsigned_of(int64_t value) {
  return static_cast<uint64_t>(value);
}

int64_t uniform(Rng& rng, int64_t first, int64_t last) {
  return first + static_cast<int64_t>(rng.below(unsigned_of(last - first + 1)));
}

Tensor empty_tokens(int64_t rows, int64_t columns) {
  return at::empty({rows, columns}, at::kLong);
}

std::span<int64_t> row_of(const Tensor& tokens, int64_t row) {
  const int64_t columns = tokens.size(1);
  return {tokens.data_ptr<int64_t>() + row * columns, unsigned_of(columns)};
}

/// Copies what fits; returns what is left to fill.
std::span<int64_t> put(std::string_view text, std::span<int64_t> out) {
  const size_t count = std::min(text.size(), out.size());
  std::transform(text.begin(), text.begin() + static_cast<int64_t>(count), out.begin(),
                 [](char c) { return static_cast<unsigned char>(c); });
  return out.subspan(count);
}

}  // namespace

std::string_view source_name(Source source) {
  return std::ranges::find(kSources, source, &std::pair<Source, std::string_view>::first)->second;
}

Source parse_source(std::string_view name) {
  const auto found =
      std::ranges::find(kSources, name, &std::pair<Source, std::string_view>::second);
  check(found != std::end(kSources), Error::Kind::Usage,
        "--mix: '{}' is no source of training bytes; there are text, repeat and passkey", name);
  return found->first;
}

void fill_repeat(Rng& rng, int64_t length, std::span<int64_t> out) {
  std::vector<int64_t> pattern(unsigned_of(length));
  for (int64_t& byte : pattern)
    byte = uniform(rng, 0x20, 0x7e);
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = pattern[i % pattern.size()];
}

void fill_passkey(Rng& rng, std::span<int64_t> out) {
  namespace text = io::passkey;
  while (!out.empty()) {
    const std::string key = fmt::format("{:05}", rng.below(100000));
    const std::string needle = text::needle(key);
    const auto fixed =
        static_cast<int64_t>(text::kPrefix.size() + needle.size() + text::kQuestion.size() + 8);
    const auto block = static_cast<int64_t>(text::kFiller.size());
    const int64_t room = std::max<int64_t>(0, static_cast<int64_t>(out.size()) - fixed) / block;
    const int64_t blocks = uniform(rng, 0, room);  // of filler, around the needle
    const int64_t before = uniform(rng, 0, blocks);
    out = put(text::kPrefix, out);
    for (int64_t i = 0; i <= blocks; ++i) {
      if (i == before)
        out = put(needle, out);
      if (i < blocks)
        out = put(text::kFiller, out);
    }
    out = put(text::kQuestion, out);
    out = put(" " + key + ".\n", out);
  }
}

ByteData::ByteData(const DataConfig& config) : config_(config) {
  const auto& mix = config_.mix;
  const double sum =
      std::accumulate(mix.begin(), mix.end(), 0.0,
                      [](double total, const auto& part) { return total + part.second; });
  check(std::ranges::all_of(mix, [](const auto& part) { return part.second >= 0; }) &&
            std::abs(sum - 1) < 1e-9,
        Error::Kind::Usage, "--mix: the shares sum to {}, and must be positive and sum to 1", sum);
  check(config_.window > 0, Error::Kind::Usage, "--window: {} bytes; it must be positive",
        config_.window);
  check(config_.repeat_min >= 1 && config_.repeat_max >= config_.repeat_min, Error::Kind::Usage,
        "repeated strings of {} to {} bytes: the smallest must be 1 or more, and not above the "
        "largest",
        config_.repeat_min, config_.repeat_max);
  check(!mix.contains(Source::Text) || mix.at(Source::Text) == 0 || !config_.text.empty(),
        Error::Kind::Usage, "--mix asks for text, and no --text FILE is named");
  const std::filesystem::path input = "-";
  check(std::ranges::count(config_.text, input) + std::ranges::count(config_.held_out, input) <= 1,
        Error::Kind::Usage, "standard input (-) can be read only once");
  text_ = read(config_.text, config_.window + 1, config_.wait);
  held_out_ = read(config_.held_out, 2, config_.wait);
}

ByteData::Corpus ByteData::read(const std::vector<std::filesystem::path>& files,
                                int64_t at_least,
                                bool wait) {
  Corpus corpus;
  for (const auto& path : files) {
    const size_t begin = corpus.bytes.size();
    corpus.bytes += io::read_stream(path, {.wait = wait});
    const auto size = static_cast<int64_t>(corpus.bytes.size() - begin);
    check(size >= at_least, Error::Kind::Input,
          "{}: has {} bytes, and a window needs {}; join short files, or draw shorter windows",
          path.string(), size, at_least);
    corpus.ends.push_back(static_cast<int64_t>(corpus.bytes.size()));
  }
  return corpus;
}

void ByteData::fill_text(const Corpus& corpus, int64_t place, std::span<int64_t> out) const {
  // A window that would run over the end of its file starts earlier instead.
  const auto end = std::ranges::upper_bound(corpus.ends, place);
  const int64_t begin_of_file = end == corpus.ends.begin() ? 0 : *(end - 1);
  const int64_t begin =
      std::max(begin_of_file, std::min(place, *end - static_cast<int64_t>(out.size())));
  put(std::string_view(corpus.bytes).substr(unsigned_of(begin)), out);
}

void ByteData::fill(Source source, Rng& rng, std::span<int64_t> out) const {
  if (source == Source::Text)
    fill_text(text_, static_cast<int64_t>(rng.below(text_.bytes.size())), out);
  else if (source == Source::Repeat)
    fill_repeat(rng, uniform(rng, config_.repeat_min, config_.repeat_max), out);
  else
    fill_passkey(rng, out);
}

Tensor ByteData::windows(int64_t step, int64_t windows) const {
  Tensor tokens = empty_tokens(windows, config_.window + 1);
  // Systematic sampling: one random offset, then equal steps through the cumulative shares.
  const double offset = Rng(config_.seed, fmt::format("mix/{}", step)).uniform();
  for (int64_t row = 0; row < windows; ++row) {
    double place = (static_cast<double>(row) + offset) / static_cast<double>(windows);
    Source source = config_.mix.rbegin()->first;
    for (const auto& [candidate, share] : config_.mix) {
      if (place < share) {
        source = candidate;
        break;
      }
      place -= share;
    }
    Rng rng(config_.seed, fmt::format("train/{}/{}", step, row));
    fill(source, rng, row_of(tokens, row));
  }
  return tokens;
}

Tensor ByteData::sequences(int64_t step, int64_t count, int64_t length) const {
  return windows(step, count).unfold(1, length + 1, length).reshape({-1, length + 1});
}

Tensor ByteData::validation(Source source, int64_t rows, int64_t length) const {
  Tensor tokens = empty_tokens(rows, length + 1);
  if (source == Source::Text) {
    const auto size = static_cast<int64_t>(held_out_.bytes.size());
    check(size > length, Error::Kind::Input,
          "the held-out text has {} bytes; validation at {} needs one more than that", size,
          length);
    for (int64_t row = 0; row < rows; ++row)
      fill_text(held_out_, row * (size - length - 1) / rows, row_of(tokens, row));
    return tokens;
  }
  for (int64_t row = 0; row < rows; ++row) {
    Rng rng(config_.seed, fmt::format("validation/{}/{}", source_name(source), row));
    fill(source, rng, row_of(tokens, row));
  }
  return tokens;
}

std::string ByteData::text_hash() const {
  return sha256(text_.bytes);
}
std::string ByteData::held_out_hash() const {
  return sha256(held_out_.bytes);
}

}  // namespace stuffed::train
