// Which passkey prompts a run asks, and their tokens.
#include "stuffed/eval/passkey.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "passkey_questions.h"
#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "stuffed/eval/trial_scores.h"
#include "stuffed/io/passkey_text.h"

namespace stuffed::eval {

namespace {

constexpr int64_t kPrefixSentences = 1200;  // of --add-prefix, as in the published code

struct Wording {
  std::string prefix, filler, question, needle_end;
};

Wording wording_of(PasskeyProtocol protocol) {
  namespace text = io::passkey;
  if (protocol != PasskeyProtocol::PaperText)
    return {std::string(text::kPrefix), std::string(text::kFiller), std::string(text::kQuestion),
            ""};
  return {
      "There is important info hidden inside a lot of irrelevant text. Find it and memorize "
      "it.\n\n",
      fmt::format("{}\n", text::kFiller), "What is the passkey? The passkey is", "\n"};
}

class PromptBuilder {
 public:
  PromptBuilder(const io::Tokenizer& tokenizer, const PasskeyOptions& options)
      : tokenizer_(tokenizer),
        options_(options),
        wording_(wording_of(options.protocol)),
        assembler_(tokenizer, blocks_),
        question_(tokenizer.encode(wording_.question)),
        alone_(counted_alone()),
        inside_(options.placement == PasskeyPlacement::Floored ? alone_ : counted_inside()) {}

  PasskeyTask build() {
    for (const int64_t length :
         std::set<int64_t>(options_.lengths_tokens.begin(), options_.lengths_tokens.end()))
      add_length(length);
    keep_part();
    return {PromptTree(std::move(blocks_), std::move(prompts_)), std::move(trials_)};
  }

 private:
  /// Trials are what they are in the whole run.
  void keep_part() {
    size_t kept = 0;
    for (size_t i = 0; i < trials_.size(); ++i)
      if (trials_[i].trial % options_.parts == options_.part) {
        std::swap(trials_[kept], trials_[i]);
        std::swap(prompts_[kept++], prompts_[i]);
      }
    trials_.resize(kept);
    prompts_.resize(kept);
  }

  /// Tokens of a prompt's parts; what is put in front of it does not count.
  struct Counts {
    int64_t prefix = 0, block = 0, question = 0;
    int64_t blocks_within(int64_t length) const { return (length - prefix - question) / block; }
  };

  int64_t count(const std::string& text) const { return int64_t(tokenizer_.encode(text).size()); }

  /// Each text encoded by itself, as the published code counts.
  Counts counted_alone() const {
    return {.prefix = count(wording_.prefix),
            .block = count(wording_.filler),
            .question = int64_t(question_.size())};
  }

  /// As they are in a whole text, where tokens join across the seams.
  Counts counted_inside() {
    constexpr int64_t kBlocks = 8;
    const auto with = [&](int64_t blocks) {
      return assembler_.assemble(pieces({{wording_.filler, blocks}}));
    };
    const auto some = with(kBlocks), more = with(kBlocks + 1);
    const int64_t tokens = token_count(blocks_, some.prompt);
    Counts counts{.prefix = some.begins[3] - some.begins[2],
                  .block = token_count(blocks_, more.prompt) - tokens};
    counts.question = tokens - some.begins[3] - kBlocks * counts.block;
    return counts;
  }

  /// A prompt's text around `middle`.
  std::vector<Piece> pieces(const std::vector<Piece>& middle) const {
    std::vector<Piece> all{
        {"<|endoftext|>", options_.use_bos ? 1 : 0},
        {std::string(io::passkey::kFiller), options_.add_prefix ? kPrefixSentences : 0},
        {wording_.prefix}};
    all.insert(all.end(), middle.begin(), middle.end());
    all.push_back({wording_.question});
    return all;
  }

  void add_length(int64_t length) {
    const bool published = options_.protocol == PasskeyProtocol::PaperCode;
    const size_t first = trials_.size();
    int64_t blocks = (published ? alone_ : inside_).blocks_within(length);
    for (int64_t excess = 1; excess > 0;) {
      check(blocks > 0, Error::Kind::Usage,
            "--lengths: a prompt of {} tokens has no room for the passkey; with this tokenizer the "
            "shortest has {}",
            length, inside_.prefix + inside_.question + 2 * inside_.block);
      trials_.resize(first);
      prompts_.resize(first);
      excess = add_trials(length, blocks);
      blocks -= (excess + inside_.block - 1) / inside_.block;
    }
  }

  /// Adds a length's trials, up to the first that is too long; returns by how many tokens.
  int64_t add_trials(int64_t length, int64_t blocks) {
    const std::vector<int64_t> shared =
        shared_positions(blocks, options_.depths, options_.placement);
    std::map<int64_t, int64_t> repetitions;
    for (int64_t depth = 0; depth < options_.depths; ++depth)
      for (int64_t trial = 0; trial < options_.trials; ++trial) {
        PasskeyTrial one{.length_tokens = length, .depth_index = depth, .trial = trial};
        one.blocks = blocks;
        if (options_.grid == PasskeyGrid::Shared)
          place_shared(one, shared[size_t(depth)], repetitions);
        else
          place_alone(one);
        if (const int64_t excess = write(one); excess > 0)
          return excess;
      }
    return 0;
  }

  void place_shared(PasskeyTrial& one, int64_t position, std::map<int64_t, int64_t>& repetitions) {
    one.depth = (double(one.depth_index) + 0.5) / double(options_.depths);
    one.position_blocks = position;
    one.repetition = repetitions[position]++;
    one.passkey = draw(fmt::format("passkey/position={}/{}", position, one.repetition));
  }

  void place_alone(PasskeyTrial& one) {
    const auto samples = double(options_.depths * options_.trials);
    one.repetition = one.depth_index * options_.trials + one.trial;
    if (options_.protocol == PasskeyProtocol::PaperText) {  // before token length * i/n - 1
      one.depth = double(one.repetition) / samples;
      const double token = double(one.length_tokens) * one.depth - 1 - double(inside_.prefix);
      const int64_t block = options_.placement == PasskeyPlacement::Floored
                                ? int64_t(token) / inside_.block
                                : std::llround(token / double(inside_.block));
      one.position_blocks = std::clamp<int64_t>(block, 0, one.blocks - 1);
    } else {
      one.depth = (double(one.repetition) + 0.5) / samples;
      one.position_blocks = int64_t(one.depth * double(one.blocks - 1));
    }
    one.passkey = draw(fmt::format("passkey/length={}/{}", one.length_tokens, one.repetition));
  }

  std::string draw(const std::string& key) const {
    Rng rng(options_.seed, key);
    std::string digits;
    for (int64_t i = 0; i < options_.digits; ++i)
      digits.push_back(char('0' + rng.below(10)));
    return digits;
  }

  /// Adds the trial; returns by how many tokens it is too long.
  int64_t write(PasskeyTrial& one) {
    PromptAssembler::Assembled text =
        assembler_.assemble(pieces({{wording_.filler, one.position_blocks},
                                    {io::passkey::needle(one.passkey) + wording_.needle_end},
                                    {wording_.filler, one.blocks - one.position_blocks - 1}}));
    one.prompt_tokens = token_count(blocks_, text.prompt);
    one.needle_token = text.begins[4];
    one.answer = answer(" " + one.passkey);
    const int64_t own = one.prompt_tokens - text.begins[2];  // what was put in front does not count
    prompts_.push_back(std::move(text.prompt));
    trials_.push_back(one);
    const bool ours = options_.protocol == PasskeyProtocol::Ours;
    if (!ours && options_.placement == PasskeyPlacement::Floored)
      return 0;
    return std::max<int64_t>(0, own + (ours ? options_.max_new_tokens : 0) - one.length_tokens);
  }

  /// The answer's tokens, as they continue the question's.
  std::vector<int32_t> answer(const std::string& text) const {
    const std::vector<int32_t> both = tokenizer_.encode(wording_.question + text);
    check(both.size() > question_.size() &&
              std::equal(question_.begin(), question_.end(), both.begin()),
          Error::Kind::Unsupported,
          "{}: joins the answer's tokens with the question's, so the answer cannot be scored",
          tokenizer_.source());
    return {both.begin() + int64_t(question_.size()), both.end()};
  }

  const io::Tokenizer& tokenizer_;
  const PasskeyOptions& options_;
  const Wording wording_;
  TokenBlocks blocks_;
  PromptAssembler assembler_;
  const std::vector<int32_t> question_;
  const Counts alone_, inside_;
  std::vector<PasskeyTrial> trials_;
  std::vector<Prompt> prompts_;
};

}  // namespace

std::string PasskeyTrial::key() const {
  return fmt::format("len={}/depth={}/trial={}", length_tokens, depth_index, trial);
}

double PasskeyTrial::real_depth() const {
  return double(position_blocks) / double(std::max<int64_t>(1, blocks - 1));
}

std::vector<int64_t> shared_positions(int64_t blocks, int64_t depths, PasskeyPlacement placement) {
  int64_t grid = 1;
  while (2 * grid * depths <= blocks)
    grid *= 2;
  const int64_t candidates = (blocks + grid - 1) / grid;
  std::vector<int64_t> positions;
  for (int64_t depth = 0; depth < depths; ++depth) {
    const int64_t halves = 2 * depth + 1;  // of a depth's share
    const int64_t multiple = placement == PasskeyPlacement::Floored
                                 ? halves * candidates / (2 * depths)
                                 : (halves * (blocks - 1) + depths * grid) / (2 * depths * grid);
    positions.push_back(multiple * grid);
  }
  return positions;
}

int64_t PasskeyTask::tokens_to_feed(int64_t max_new_tokens) const {
  return eval::tokens_to_feed(passkey_questions(*this, max_new_tokens));
}

int64_t PasskeyTask::answers_cut(int64_t max_new_tokens) const {
  return std::ranges::count_if(
      trials, [&](const PasskeyTrial& trial) { return trial.is_cut(max_new_tokens); });
}

PasskeyTask make_passkey(const io::Tokenizer& tokenizer, const PasskeyOptions& options) {
  check(options.digits > 0 && options.max_new_tokens > 0, Error::Kind::Usage,
        "passkey: digits and new tokens must be at least one each");
  check_trial_counts("passkey", {.lengths = std::ssize(options.lengths_tokens),
                                 .depths = options.depths,
                                 .trials = options.trials,
                                 .part = options.part,
                                 .parts = options.parts});
  return PromptBuilder(tokenizer, options).build();
}

}  // namespace stuffed::eval
