// Which passkey prompts a run asks, and their tokens.
#include "stuffed/eval/passkey.h"

#include <algorithm>
#include <set>

#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"
#include "stuffed/io/passkey_text.h"

namespace stuffed::eval {

namespace {

constexpr int64_t kPrefixSentences = 1200;  // of --add-prefix, as in the published code
// Each takes memory before anything runs; the paper's figure has 25,600.
constexpr int64_t kMaxPrompts = 16'777'216;

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
      std::string(text::kFiller) + "\n", "What is the passkey? The passkey is", "\n"};
}

class Maker {
 public:
  Maker(const io::Tokenizer& tokenizer, const PasskeyOptions& options)
      : tokenizer_(tokenizer),
        options_(options),
        wording_(wording_of(options.protocol)),
        assembler_(tokenizer, blocks_),
        prefix_tokens_(count(wording_.prefix)),
        block_tokens_(count(wording_.filler)),
        question_(tokenizer.encode(wording_.question)) {}

  PasskeyTask make() {
    for (const int64_t length :
         std::set<int64_t>(options_.lengths_tokens.begin(), options_.lengths_tokens.end()))
      add_length(length);
    return {PromptTree(std::move(blocks_), std::move(prompts_)), std::move(trials_)};
  }

 private:
  int64_t count(const std::string& text) const { return int64_t(tokenizer_.encode(text).size()); }

  void add_length(int64_t length) {
    // The published code's count of blocks, from texts encoded one by one.
    const int64_t room = length - prefix_tokens_ - int64_t(question_.size());
    const size_t first = trials_.size();
    for (int64_t blocks = room / block_tokens_;; --blocks) {
      check(room > 0 && blocks > 0, Error::Kind::Usage,
            "--lengths: a prompt of {} tokens has no room for the passkey; with this tokenizer the "
            "shortest has {}",
            length, prefix_tokens_ + int64_t(question_.size()) + 2 * block_tokens_);
      trials_.resize(first);
      prompts_.resize(first);
      if (place(length, blocks))
        return;
    }
  }

  /// Adds a length's trials; false if one does not leave room for the answer.
  bool place(int64_t length, int64_t blocks) {
    const std::vector<int64_t> shared = shared_positions(blocks, options_.depths);
    std::map<int64_t, int64_t> repetitions;
    for (int64_t depth = 0; depth < options_.depths; ++depth)
      for (int64_t trial = 0; trial < options_.trials; ++trial) {
        PasskeyTrial one{.length_tokens = length, .depth_index = depth, .trial = trial};
        one.blocks = blocks;
        if (options_.grid == PasskeyGrid::Shared)
          place_shared(one, shared[size_t(depth)], repetitions);
        else
          place_alone(one);
        if (!write(one))
          return false;
      }
    return true;
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
      const double token = double(one.length_tokens) * one.depth - 1 - double(prefix_tokens_);
      one.position_blocks = std::clamp<int64_t>(int64_t(token) / block_tokens_, 0, one.blocks - 1);
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

  bool write(PasskeyTrial& one) {
    const std::vector<Piece> pieces{
        {"<|endoftext|>", options_.use_bos ? 1 : 0},
        {std::string(io::passkey::kFiller), options_.add_prefix ? kPrefixSentences : 0},
        {wording_.prefix},
        {wording_.filler, one.position_blocks},
        {io::passkey::needle(one.passkey) + wording_.needle_end},
        {wording_.filler, one.blocks - one.position_blocks - 1},
        {wording_.question}};
    PromptAssembler::Assembled text = assembler_.assemble(pieces);
    one.prompt_tokens = token_count(blocks_, text.prompt);
    one.needle_token = text.begins[4];
    one.answer = answer(" " + one.passkey);
    const int64_t own = one.prompt_tokens - text.begins[2];  // what was put in front does not count
    prompts_.push_back(std::move(text.prompt));
    trials_.push_back(one);
    return options_.protocol != PasskeyProtocol::Ours ||
           own + options_.max_new_tokens <= one.length_tokens;
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
  const int64_t prefix_tokens_, block_tokens_;
  const std::vector<int32_t> question_;
  std::vector<PasskeyTrial> trials_;
  std::vector<Prompt> prompts_;
};

}  // namespace

std::string PasskeyTrial::key() const {
  return fmt::format("len={}/depth={}/trial={}", length_tokens, depth_index, trial);
}

std::vector<int64_t> shared_positions(int64_t blocks, int64_t depths) {
  int64_t grid = 1;
  while (2 * grid * depths <= blocks)
    grid *= 2;
  const int64_t candidates = (blocks + grid - 1) / grid;
  std::vector<int64_t> positions;
  for (int64_t depth = 0; depth < depths; ++depth)
    positions.push_back((2 * depth + 1) * candidates / (2 * depths) * grid);
  return positions;
}

int64_t PasskeyTask::tokens_to_feed(int64_t max_new_tokens) const {
  std::map<int32_t, int64_t> answers;  // equal prompts are answered once
  for (size_t i = 0; i < trials.size(); ++i)
    answers[tree.ends()[i]] = int64_t(trials[i].answer.size()) - 1 + max_new_tokens - 1;
  int64_t sum = tree.tree_tokens();
  for (const auto& [node, tokens] : answers)
    sum += tokens;
  return sum;
}

PasskeyTask make_passkey(const io::Tokenizer& tokenizer, const PasskeyOptions& options) {
  check(options.depths > 0 && options.trials > 0 && options.digits > 0 &&
            options.max_new_tokens > 0 && !options.lengths_tokens.empty(),
        Error::Kind::Usage,
        "passkey: lengths, depths, trials, digits and new tokens must be at least one each");
  check(double(options.lengths_tokens.size()) * double(options.depths) * double(options.trials) <=
            double(kMaxPrompts),
        Error::Kind::Usage,
        "passkey: {} lengths x {} depths x {} trials are too many prompts, at most {} can be "
        "planned; lower --depths or --trials",
        options.lengths_tokens.size(), options.depths, options.trials, kMaxPrompts);
  return Maker(tokenizer, options).make();
}

}  // namespace stuffed::eval
