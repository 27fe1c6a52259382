// What the makers of the several tasks add their prompts to.
#pragma once
#include "stuffed/eval/retrieval.h"

namespace stuffed::eval {

/// Prompts of a run while they are made.
struct Samples {
  TokenBlocks blocks;
  std::vector<Prompt> prompts;
  std::vector<RetrievalTrial> trials;
  std::map<int64_t, int64_t> counts;  // of jsonl, by length

  void truncate(size_t count) {
    prompts.resize(count);
    trials.resize(count);
  }
};

/// Where the needles of a length's trials go, of `places` places.
class Placement {
 public:
  Placement(const RetrievalOptions& options, int64_t length, int64_t places)
      : options_(options),
        length_(length),
        places_(places),
        shared_(shared_positions(places, options.depths)) {}

  /// The next trial in the order of depths and trials: its place goes to `place`, and what its
  /// numbers are drawn by to `name`.
  RetrievalTrial next(int64_t& place, std::string& name);

 private:
  const RetrievalOptions& options_;
  const int64_t length_, places_;
  const std::vector<int64_t> shared_;
  std::map<int64_t, int64_t> repetitions_;
  int64_t made_ = 0;
};

void add_needles(const io::Tokenizer& tokenizer, const RetrievalOptions& options, Samples& samples);
void add_recall(const RetrievalOptions& options, Samples& samples);
void add_jsonl(const io::Tokenizer& tokenizer, const RetrievalOptions& options, Samples& samples);

/// The answer's tokens, as they continue the prompt's; none if the tokenizer joins the two.
std::vector<int32_t> continuation(const io::Tokenizer& tokenizer,
                                  const std::string& prompt,
                                  const std::string& answer);

/// Whether one of the strings, behind a space, has more tokens than are decoded, so that it cannot
/// be found.
bool any_is_cut(const io::Tokenizer& tokenizer,
                const std::vector<std::string>& expected,
                int64_t max_new_tokens);

}  // namespace stuffed::eval
