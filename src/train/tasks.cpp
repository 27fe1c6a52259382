#include "src/train/tasks.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "stuffed/io/associative_recall.h"
#include "stuffed/io/passkey_text.h"

namespace stuffed::train {

namespace {

/// Copies what fits; returns what is left to fill.
template <class Ids>
std::span<int64_t> put(const Ids& ids, std::span<int64_t> out) {
  const size_t count = std::min(ids.size(), out.size());
  std::copy(ids.begin(), ids.begin() + static_cast<int64_t>(count), out.begin());
  return out.subspan(count);
}

}  // namespace

int64_t draw_uniform(Rng& rng, int64_t first, int64_t last) {
  return first + static_cast<int64_t>(rng.below(static_cast<uint64_t>(last - first + 1)));
}

Alphabet::Alphabet(const io::Tokenizer& tokenizer)
    : first(tokenizer.kind() == "bytes" ? 0x20 : 0),
      count(tokenizer.kind() == "bytes" ? 0x7f - 0x20 : tokenizer.vocab_size()) {}

void fill_repeat(Rng& rng, const Alphabet& alphabet, int64_t length, std::span<int64_t> out) {
  std::vector<int64_t> pattern(static_cast<size_t>(length));
  for (int64_t& id : pattern)
    id = draw_uniform(rng, alphabet.first, alphabet.first + alphabet.count - 1);
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = pattern[i % pattern.size()];
}

void fill_passkey(Rng& rng, const io::Tokenizer& tokenizer, std::span<int64_t> out) {
  namespace text = io::passkey;
  const auto prefix = tokenizer.encode(text::kPrefix), filler = tokenizer.encode(text::kFiller),
             question = tokenizer.encode(text::kQuestion);
  while (!out.empty()) {
    const std::string key = fmt::format("{:05}", rng.below(100000));
    const auto needle = tokenizer.encode(text::needle(key)),
               answer = tokenizer.encode(" " + key + ".\n");
    const auto fixed =
        static_cast<int64_t>(prefix.size() + needle.size() + question.size() + answer.size());
    const int64_t room = std::max<int64_t>(0, static_cast<int64_t>(out.size()) - fixed) /
                         static_cast<int64_t>(filler.size());
    const int64_t blocks = draw_uniform(rng, 0, room);  // of filler, around the needle
    const int64_t before = draw_uniform(rng, 0, blocks);
    out = put(prefix, out);
    for (int64_t i = 0; i <= blocks; ++i) {
      if (i == before)
        out = put(needle, out);
      if (i < blocks)
        out = put(filler, out);
    }
    out = put(question, out);
    out = put(answer, out);
  }
}

void fill_recall(Rng& rng, const Alphabet& alphabet, int64_t pairs, std::span<int64_t> out) {
  const int64_t half = alphabet.count / 2;
  while (!out.empty()) {
    const int64_t count = draw_uniform(rng, 2, std::min(pairs, half));
    std::map<int64_t, int64_t> value_of;
    while (static_cast<int64_t>(value_of.size()) < count)
      value_of[draw_uniform(rng, 0, half - 1)] = draw_uniform(rng, half, alphabet.count - 1);
    std::vector<std::pair<int64_t, int64_t>> shown(value_of.begin(), value_of.end());
    for (int time = 0; time < 2; ++time) {
      shuffle(rng, shown);
      for (const auto& [key, value] : shown)
        out = put(std::vector<int64_t>{alphabet.first + key, alphabet.first + value}, out);
    }
  }
}

void fill_mqar(Rng& rng, int64_t vocabulary, int64_t pairs, std::span<int64_t> out) {
  while (!out.empty()) {
    io::RecallOptions options{.pairs = draw_uniform(rng, 2, pairs), .vocabulary = vocabulary};
    options.queries = options.pairs;
    io::check_recall(options);
    const io::RecallSample sample = io::draw_recall(rng, options);
    const int64_t fixed = io::context_tokens(options) + io::query_tokens(options);
    const int64_t room = std::max<int64_t>(0, static_cast<int64_t>(out.size()) - fixed);
    const int64_t filler = draw_uniform(rng, 0, std::min(room, 2 * fixed));
    const int64_t before = draw_uniform(rng, 0, filler);
    out = put(std::vector<int64_t>(static_cast<size_t>(before), 0), out);
    out = put(sample.context, out);
    out = put(std::vector<int64_t>(static_cast<size_t>(filler - before), 0), out);
    for (size_t i = 0; i < sample.queries.size(); ++i)
      out = put(std::vector<int64_t>{sample.queries[i], sample.answers[i]}, out);
  }
}

}  // namespace stuffed::train
