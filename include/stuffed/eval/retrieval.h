// Retrieval beyond passkeys: needles in a text (RULER, arXiv:2404.06654), questions from a file, and
// associative recall over token ids (arXiv:2312.04927), with all prompts of a run in one prompt tree.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "stuffed/eval/passkey.h"
#include "stuffed/eval/prompt_progress.h"
#include "stuffed/eval/prompt_tree.h"
#include "stuffed/io/associative_recall.h"
#include "stuffed/io/journal.h"

namespace stuffed::eval {

inline constexpr std::string_view kRetrievalSchema = "stuffed.retrieval";

/// What is asked.
enum class RetrievalKind {
  NiahSingle,      // one needle, whose value is asked for
  NiahMultikey,    // several, one of which is asked for
  NiahMultivalue,  // several values of one key, all of which are asked for
  NiahMultiquery,  // several keys, all of which are asked for
  Mqar,            // pairs of tokens, and their keys again
  MqarForget,      // likewise, where some keys get a new value
  Jsonl,           // prompts and answers of a file
};

struct RetrievalOptions {
  RetrievalKind kind = RetrievalKind::NiahSingle;
  std::vector<int64_t> lengths_tokens = {};  // of jsonl: those taken; none: all
  int64_t depths = 10;
  int64_t trials = 20;  // per length and depth; of jsonl: at most, 0 for all
  PasskeyGrid grid = PasskeyGrid::Shared;
  int64_t max_new_tokens = 128;  // RULER's; not of mqar, whose answers are one token each
  uint64_t seed = 0;
  int64_t part = 0, parts = 1;  // of each length and depth trials part, part + parts, ... alone

  std::filesystem::path text = {};  // the haystack; empty: lines of filler
  std::string keys = "words", values = "numbers";
  int64_t needles = 4;  // of the tasks with several

  std::vector<std::filesystem::path> jsonl = {};
  std::string format = "ruler";  // ruler, babilong, plain

  io::RecallOptions recall = {};
};

bool is_recall(RetrievalKind kind);  // needs no tokenizer

/// One prompt, and what is expected of its answer.
struct RetrievalTrial {
  int64_t length_tokens = 0;
  int64_t depth_index = 0;
  int64_t trial = 0;
  double depth = -1, real_depth = -1;  // asked for, and the needle's; 0 to 1; below 0: none
  int64_t repetition = 0;              // numbers the samples at one position
  int64_t prompt_tokens = 0;
  int64_t needle_token = -1;               // where the needle begins; below 0: nobody knows
  std::vector<std::string> expected = {};  // strings; none for mqar
  std::vector<int32_t> answer = {};        // tokens that continue the prompt
  std::vector<int64_t> scored = {};        // of mqar: those of `answer` that are asked for
  bool is_cut = false;                     // an expected string has more tokens than are decoded
  io::json more = {};                      // of the record: what is particular to the task

  std::string key() const;  // of its record
};

struct RetrievalTask {
  PromptTree tree;
  std::vector<RetrievalTrial> trials;       // trial i is prompt i of the tree
  std::vector<int64_t> lengths_tokens;      // of all parts, ascending
  std::map<int64_t, int64_t> samples = {};  // of jsonl: how many there are of each length

  int64_t tokens_to_feed(int64_t max_new_tokens) const;
  /// Tokens it would take to feed every prompt and its answer alone.
  int64_t tokens_asked(int64_t max_new_tokens) const;
  int64_t answers_cut() const;
  /// Trials whose prompts with their answers have more tokens than their lengths: of jsonl, which
  /// another tokenizer has counted. They are asked whole.
  int64_t over_length(int64_t max_new_tokens) const;
};

/// Prompt and answer together have at most the length's tokens. A needle lies between two units of
/// the haystack (lines, sentences); the first of several at the depth asked for, the others anywhere:
/// on the shared grid within the largest power of two of units, so that lengths share them.
/// `tokenizer` may be null for mqar.
/// Errors  Usage if a length has no room, or the text too few tokens; Input, naming the line, for a
///         sample that is not of its format; Unsupported if prompts cannot be assembled from this
///         tokenizer's pieces
RetrievalTask make_retrieval(const io::Tokenizer* tokenizer, const RetrievalOptions& options);

/// Which share of the expected strings occur in the text, whatever their case.
std::vector<bool> strings_found(std::string_view text, const std::vector<std::string>& expected);

/// Answers every trial whose record is missing, then the summaries, as run_passkey(). A record's
/// "score" is the share of what is expected that was found.
TreeCount run_retrieval(const RecurrentLM& model,
                        const Recurrence& rule,
                        const io::Tokenizer* tokenizer,
                        const RetrievalTask& task,
                        const RetrievalOptions& options,
                        const TreeLimits& limits,
                        io::Journal& journal,
                        Checkpoint& checkpoint,
                        const OnPromptProgress& on_progress);

}  // namespace stuffed::eval
