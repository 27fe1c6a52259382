// Text from a model: a prompt fed in segments, then one token at a time.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "stuffed/io/tokenizer.h"
#include "stuffed/models/state_file.h"

namespace stuffed::eval {

/// Greedy unless one of temperature, top_k, top_p is set.
struct SamplerOptions {
  double temperature = 1;
  int64_t top_k = 0;  // 0: all
  double top_p = 1;   // smallest set of tokens whose probability reaches it
  bool greedy = true;
  uint64_t seed = 0;
};

/// The id drawn from logits [vocab] at an absolute position: a function of (logits, seed, position)
/// alone.
int64_t sample(const Tensor& logits, const SamplerOptions& options, int64_t position);

struct GenerateOptions {
  SamplerOptions sampler = {};
  int64_t segment = 8192;  // prompt tokens fed at a time, cut at absolute multiples
  int64_t max_new_tokens = 64;
  std::vector<std::string> stop = {};  // generation ends once the new text contains one of them
  bool stop_eos = false;               // ... or at the tokenizer's end-of-text token
};

struct Generated {
  std::vector<int64_t> new_tokens;
  std::string bytes;        // of the new tokens; empty without a tokenizer
  std::string stop_reason;  // "length", "stop", "eos"
};

/// Feeds `prompt` (ids below the model's vocabulary; may be empty if `saved` holds a hidden row)
/// and updates `saved`.
void feed_prompt(const RecurrentLM& model,
                 const Recurrence& rule,
                 std::span<const int32_t> prompt,
                 int64_t segment,
                 SavedState& saved,
                 const std::function<void(int64_t fed)>& on_progress = {});

/// Continues from `saved`, which afterwards has consumed every new token: saving it, loading it and
/// going on gives the bytes that never stopping gives. `tokenizer` may be null. `on_token` sees
/// each id and the bytes it adds.
Generated generate(const RecurrentLM& model,
                   const Recurrence& rule,
                   const io::Tokenizer* tokenizer,
                   const GenerateOptions& options,
                   SavedState& saved,
                   const std::function<void(int64_t id, const std::string& bytes)>& on_token = {});

}  // namespace stuffed::eval
