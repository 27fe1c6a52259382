// Passkey retrieval: up to which length, and how far back, does a model find a number it was told?
// The task of arXiv:2410.07145, with all prompts of a run in one prompt tree.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "stuffed/eval/prompt_tree.h"
#include "stuffed/io/results.h"

namespace stuffed::eval {

enum class PasskeyProtocol {
  Ours,       // the published code's words; room is left for the answer
  PaperCode,  // as the published code: the answer may run past the length
  PaperText,  // the words and the needle positions printed in the paper
};
enum class PasskeyGrid {
  Shared,     // positions and keys that lengths have in common, so that they share a stream
  PerLength,  // the original protocol: a key and a depth of its own for every sample
};

struct PasskeyOptions {
  std::vector<int64_t> lengths_tokens = {};
  int64_t depths = 10;
  int64_t trials = 20;  // per length and depth
  PasskeyProtocol protocol = PasskeyProtocol::Ours;
  PasskeyGrid grid = PasskeyGrid::Shared;
  bool use_bos = false;     // the text <|endoftext|> in front
  bool add_prefix = false;  // 1200 sentences of filler in front
  int64_t digits = 5;
  int64_t max_new_tokens = 8;
  uint64_t seed = 0;
};

/// One prompt, and what the answer should be.
struct PasskeyTrial {
  int64_t length_tokens = 0;  // asked for
  int64_t depth_index = 0;
  int64_t trial = 0;
  double depth = 0;             // asked for: 0 is the beginning
  int64_t blocks = 0;           // of filler, the one the needle replaces included
  int64_t position_blocks = 0;  // filler before the needle
  int64_t repetition = 0;       // numbers the samples at one position
  std::string passkey = {};
  int64_t prompt_tokens = 0;
  int64_t needle_token = 0;  // where the needle begins
  std::vector<int32_t> answer = {};

  std::string key() const;  // of its record
};

struct PasskeyTask {
  PromptTree tree;
  std::vector<PasskeyTrial> trials;  // trial i is prompt i of the tree

  /// Tokens a run feeds: the tree's, and each distinct prompt's answer, decoded and scored.
  int64_t tokens_to_feed(int64_t max_new_tokens) const;
};

/// Where the needles go in `blocks` blocks: one position for each depth, spread evenly over
/// multiples of the largest power of two that is at most blocks / depths. With fewer blocks than
/// depths a position occurs more than once.
std::vector<int64_t> shared_positions(int64_t blocks, int64_t depths);

/// Errors  Usage if a length has no room for the needle, or of more than 2^24 prompts; Unsupported
/// if prompts cannot be assembled
///         from this tokenizer's pieces
PasskeyTask make_passkey(const io::Tokenizer& tokenizer, const PasskeyOptions& options);

/// Answers every trial whose record is missing, a record per trial, then the summaries: one record
/// "summary/len=N" per length, and "summary". `on_progress` gets the number of trials done.
TreeCount run_passkey(const RecurrentLM& model,
                      const Recurrence& rule,
                      const io::Tokenizer& tokenizer,
                      const PasskeyTask& task,
                      const PasskeyOptions& options,
                      const TreeLimits& limits,
                      io::Results& results,
                      Checkpoint& checkpoint,
                      const std::function<void(int64_t)>& on_progress);

/// Depths down, lengths across, darker where more keys were found; made from the summaries.
std::string passkey_heat_map(const PasskeyOptions& options, const io::Results& results);

struct Interval {
  double low, high;
};
/// 95 % score interval of a proportion (Wilson 1927); [0,1] without trials.
Interval wilson(int64_t successes, int64_t trials);

}  // namespace stuffed::eval
