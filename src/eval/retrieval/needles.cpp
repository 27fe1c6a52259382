// Needles in a haystack, in RULER's words.
#include <algorithm>
#include <bit>
#include <set>

#include "haystack.h"
#include "samples.h"
#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "stuffed/io/needle_text.h"

namespace stuffed::eval {

namespace {

namespace text = io::needles;

constexpr int64_t kMostNeedles = 1024;  // a quarter of the words that there are

struct Needle {
  std::string key, value;
  int64_t place = 0;  // units before it
};

/// Strings of a kind, no two of them equal.
std::vector<std::string> draw_strings(Rng& rng, std::string_view kind, int64_t count) {
  std::vector<std::string> drawn;
  while (std::ssize(drawn) < count)
    if (const std::string one = text::draw(rng, kind); std::ranges::find(drawn, one) == drawn.end())
      drawn.push_back(one);
  return drawn;
}

class NeedleMaker {
 public:
  NeedleMaker(const io::Tokenizer& tokenizer, const RetrievalOptions& options, Samples& samples)
      : tokenizer_(tokenizer),
        options_(options),
        samples_(samples),
        haystack_(tokenizer, options.text),
        assembler_(tokenizer, samples.blocks) {}

  void add_length(int64_t length) {
    const size_t first = samples_.trials.size();
    // The frame is left out, so there are too many at first.
    int64_t units = haystack_.units_within(std::max<int64_t>(0, length - options_.max_new_tokens));
    for (int64_t excess = 1; excess > 0;) {
      check(
          units > 0, Error::Kind::Usage,
          "--lengths: {} tokens have no room for the needles, the question and {} tokens of answer "
          "(--max-new-tokens); give longer ones",
          length, options_.max_new_tokens);
      samples_.truncate(first);
      excess = add_trials(length, units);
      const int64_t most = haystack_.tokens_of(units) - excess;
      units = excess > 0 ? std::min(units - 1, haystack_.units_within(std::max<int64_t>(0, most)))
                         : units;
    }
  }

 private:
  /// Adds a length's trials, up to the first that is too long; returns by how many tokens.
  int64_t add_trials(int64_t length, int64_t units) {
    Placement placement(options_, length, units + 1);
    for (int64_t i = 0; i < options_.depths * options_.trials; ++i) {
      std::string name;
      int64_t place = 0;
      RetrievalTrial one = placement.next(place, name);
      if (const int64_t excess = write(one, draw(place, units, name), units); excess > 0)
        return excess;
    }
    return 0;
  }

  bool is_one() const {
    return options_.kind == RetrievalKind::NiahSingle ||
           options_.kind == RetrievalKind::NiahMultikey;
  }

  /// The needles, the first of them at `place`, the others anywhere.
  std::vector<Needle> draw(int64_t place, int64_t units, const std::string& name) const {
    Rng rng(options_.seed, "niah/" + name);
    const bool is_single = options_.kind == RetrievalKind::NiahSingle;
    const int64_t count = is_single ? 1 : options_.needles;
    const bool is_one_key = options_.kind == RetrievalKind::NiahMultivalue;
    const auto keys = draw_strings(rng, options_.keys, is_one_key ? 1 : count);
    const auto values = draw_strings(rng, options_.values, count);
    const auto places = uint64_t(units + 1);
    const uint64_t spread = options_.grid == PasskeyGrid::Shared ? std::bit_floor(places) : places;
    std::vector<Needle> needles;
    for (size_t i = 0; i < size_t(count); ++i) {
      const double at = i == 0 ? 0 : rng.uniform();
      needles.push_back({.key = keys[is_one_key ? 0 : i],
                         .value = values[i],
                         .place = i == 0 ? place : int64_t(at * double(spread))});
    }
    return needles;
  }

  /// What is asked: keys, and the values expected.
  void ask(RetrievalTrial& one, const std::vector<Needle>& needles, text::Frame& frame) const {
    std::vector<std::string> keys;
    for (const Needle& needle : needles) {
      if (keys.empty() || (!is_one() && keys.back() != needle.key))
        keys.push_back(needle.key);
      if (one.expected.empty() || !is_one())
        one.expected.push_back(needle.value);
    }
    frame = text::frame(options_.values, keys, is_one());
    frame.question.insert(0, haystack_.end());
    one.more["query"] = keys;
    one.answer = continuation(tokenizer_, frame.question, " " + text::listed(one.expected));
    one.is_cut = any_is_cut(tokenizer_, one.expected, options_.max_new_tokens);
  }

  /// Adds the trial; returns by how many tokens it is too long.
  int64_t write(RetrievalTrial& one, const std::vector<Needle>& needles, int64_t units) {
    text::Frame frame;
    ask(one, needles, frame);
    std::vector<size_t> order(needles.size()), piece_of(needles.size());
    for (size_t i = 0; i < order.size(); ++i)
      order[i] = i;
    std::ranges::stable_sort(order, {}, [&](size_t i) { return needles[i].place; });
    std::vector<Piece> pieces{{frame.head}};
    int64_t put = 0;
    for (const size_t i : order) {
      const Needle& needle = needles[i];
      pieces.push_back(haystack_.piece(put, needle.place - put));
      put = needle.place;
      piece_of[i] = pieces.size();
      pieces.push_back({haystack_.as_unit(text::needle(options_.values, needle.key, needle.value),
                                          needle.place)});
    }
    pieces.push_back(haystack_.piece(put, units - put));
    pieces.push_back({frame.question});
    PromptAssembler::Assembled whole = assembler_.assemble(pieces);
    one.prompt_tokens = token_count(samples_.blocks, whole.prompt);
    one.needle_token = whole.begins[piece_of[0]];
    for (const size_t piece : piece_of)
      one.more["needle_tokens"].push_back(whole.begins[piece]);
    one.more.update({{"units", units}, {"position_units", needles.front().place}});
    samples_.prompts.push_back(std::move(whole.prompt));
    samples_.trials.push_back(std::move(one));
    const RetrievalTrial& made = samples_.trials.back();
    return std::max<int64_t>(0, made.prompt_tokens + options_.max_new_tokens - made.length_tokens);
  }

  const io::Tokenizer& tokenizer_;
  const RetrievalOptions& options_;
  Samples& samples_;
  const Haystack haystack_;
  PromptAssembler assembler_;
};

}  // namespace

void add_needles(const io::Tokenizer& tokenizer,
                 const RetrievalOptions& options,
                 Samples& samples) {
  check(options.max_new_tokens > 0 && options.needles > 0, Error::Kind::Usage,
        "retrieval: needles and new tokens must be at least one each");
  check(options.needles <= kMostNeedles, Error::Kind::Usage,
        "--needles {}: no two are equal, and at most {} can be drawn", options.needles,
        kMostNeedles);
  NeedleMaker maker(tokenizer, options, samples);
  for (const int64_t length :
       std::set<int64_t>(options.lengths_tokens.begin(), options.lengths_tokens.end()))
    maker.add_length(length);
}

}  // namespace stuffed::eval
