// Passkey retrieval: up to which length, and how far back, does a model find a number it was told?
// The task of arXiv:2410.07145, with all prompts of a run in one prompt tree.
#pragma once
#include <string>
#include <vector>

#include "stuffed/eval/prompt_progress.h"
#include "stuffed/eval/prompt_tree.h"
#include "stuffed/eval/trial_scores.h"
#include "stuffed/io/journal.h"

namespace stuffed::eval {

enum class PasskeyProtocol {
  Ours,       // the published code's words; room is left for the answer
  PaperCode,  // as the published code: the answer may run past the length
  PaperText,  // the words and the needle positions printed in the paper
};
/// How needles and blocks are placed.
enum class PasskeyPlacement {
  Nearest,  // the block nearest to the depth asked for; tokens counted in their context
  Floored,  // as journals do that do not say: the block before it; tokens of a block by itself
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
  PasskeyPlacement placement = PasskeyPlacement::Nearest;
  bool use_bos = false;     // the text <|endoftext|> in front
  bool add_prefix = false;  // 1200 sentences of filler in front
  int64_t digits = 5;
  int64_t max_new_tokens = 8;
  uint64_t seed = 0;
  int64_t part = 0, parts = 1;  // of each length and depth trials part, part + parts, ... alone
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

  std::string key() const;    // of its record
  double real_depth() const;  // of the needle among the blocks: 0 is the first, 1 the last
  /// Whether the answer has more tokens than are decoded, so that it cannot be found.
  bool is_cut(int64_t max_new_tokens) const { return int64_t(answer.size()) > max_new_tokens; }
};

struct PasskeyTask {
  PromptTree tree;
  std::vector<PasskeyTrial> trials;  // trial i is prompt i of the tree

  /// Tokens a run feeds: the tree's, and each distinct prompt's answer, decoded and scored.
  int64_t tokens_to_feed(int64_t max_new_tokens) const;
  /// Trials whose answers have more tokens than are decoded.
  int64_t answers_cut(int64_t max_new_tokens) const;
};

/// Where the needles go in `blocks` blocks: for each depth (d + 1/2) / depths of the way from the
/// first block to the last, the nearest multiple of the largest power of two that is at most
/// blocks / depths; that is at most half a depth away. With fewer blocks than depths a position
/// occurs more than once.
std::vector<int64_t> shared_positions(int64_t blocks,
                                      int64_t depths,
                                      PasskeyPlacement placement = PasskeyPlacement::Nearest);

/// No prompt is longer than its length; with PasskeyProtocol::Ours neither is the prompt with its
/// answer. Blocks are counted by the tokens they have inside the text (a blank line is one token by
/// itself and two before a word in GPT-NeoX); with PasskeyProtocol::PaperCode there are no more
/// than the published code makes, which counts its texts one by one.
/// Errors  Usage if a length has no room for the needle, or of more than 2^24 prompts; Unsupported
/// if prompts cannot be assembled
///         from this tokenizer's pieces
PasskeyTask make_passkey(const io::Tokenizer& tokenizer, const PasskeyOptions& options);

/// Answers every trial whose record is missing, a record per trial, then the summaries: one record
/// "summary/len=N" per length, and "summary". `on_progress` is called after every forward call.
///
/// A record holds the depth asked for ("depth") and where the needle is ("real_depth"). An answer
/// of more tokens than are decoded cannot be found: its record says "answer_cut", and no accuracy
/// counts it; the summaries say how many there are. A length where all are cut has no accuracy
/// (null). "effective_length" is the longest length that passes and all shorter ones with it
/// ("tokens"), and the longest that passes whatever shorter ones do ("longest_tokens").
TreeCount run_passkey(const RecurrentLM& model,
                      const Recurrence& rule,
                      const io::Tokenizer& tokenizer,
                      const PasskeyTask& task,
                      const PasskeyOptions& options,
                      const TreeLimits& limits,
                      io::Journal& journal,
                      Checkpoint& checkpoint,
                      const OnPromptProgress& on_progress);

}  // namespace stuffed::eval
