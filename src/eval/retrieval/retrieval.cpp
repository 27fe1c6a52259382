// Which prompts a retrieval run asks.
#include "stuffed/eval/retrieval.h"

#include <algorithm>
#include <set>

#include "retrieval_questions.h"
#include "samples.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/trial_scores.h"

namespace stuffed::eval {

namespace {

/// Trials are what they are in the whole run.
void keep_part(const RetrievalOptions& options, Samples& samples) {
  size_t kept = 0;
  for (size_t i = 0; i < samples.trials.size(); ++i)
    if (samples.trials[i].trial % options.parts == options.part) {
      std::swap(samples.trials[kept], samples.trials[i]);
      std::swap(samples.prompts[kept++], samples.prompts[i]);
    }
  samples.truncate(kept);
  check(kept > 0, Error::Kind::Usage, "--part {}/{}: there are fewer samples than parts",
        options.part, options.parts);
}

}  // namespace

bool is_recall(RetrievalKind kind) {
  return kind == RetrievalKind::Mqar || kind == RetrievalKind::MqarForget;
}

RetrievalTrial Placement::next(int64_t& place, std::string& name) {
  const int64_t samples = options_.depths * options_.trials;
  RetrievalTrial one{.length_tokens = length_,
                     .depth_index = made_ / options_.trials,
                     .trial = made_ % options_.trials};
  if (options_.grid == PasskeyGrid::Shared) {
    one.depth = (double(one.depth_index) + 0.5) / double(options_.depths);
    place = shared_[size_t(one.depth_index)];
    one.repetition = repetitions_[place]++;
    name = fmt::format("position={}/{}", place, one.repetition);
  } else {
    one.repetition = made_;
    one.depth = (double(made_) + 0.5) / double(samples);
    place = int64_t(one.depth * double(places_ - 1));
    name = fmt::format("length={}/{}", length_, one.repetition);
  }
  one.real_depth = double(place) / double(std::max<int64_t>(1, places_ - 1));
  ++made_;
  return one;
}

std::string RetrievalTrial::key() const {
  return fmt::format("len={}/depth={}/trial={}", length_tokens, depth_index, trial);
}

int64_t RetrievalTask::tokens_to_feed(int64_t max_new_tokens) const {
  return eval::tokens_to_feed(retrieval_questions(*this, max_new_tokens));
}

int64_t RetrievalTask::tokens_asked(int64_t max_new_tokens) const {
  int64_t sum = tree.prompt_tokens();
  for (const RetrievalTrial& trial : trials)
    sum += std::max<int64_t>(0, std::ssize(trial.answer) - 1) +
           std::max<int64_t>(0, max_new_tokens - 1);
  return sum;
}

int64_t RetrievalTask::answers_cut() const {
  return std::ranges::count_if(trials, &RetrievalTrial::is_cut);
}

int64_t RetrievalTask::over_length(int64_t max_new_tokens) const {
  return std::ranges::count_if(trials, [&](const RetrievalTrial& trial) {
    return trial.prompt_tokens + max_new_tokens > trial.length_tokens;
  });
}

std::vector<int32_t> continuation(const io::Tokenizer& tokenizer,
                                  const std::string& prompt,
                                  const std::string& answer) {
  const std::vector<int32_t> before = tokenizer.encode(prompt),
                             both = tokenizer.encode(prompt + answer);
  if (both.size() <= before.size() || !std::equal(before.begin(), before.end(), both.begin()))
    return {};
  return {both.begin() + int64_t(before.size()), both.end()};
}

bool any_is_cut(const io::Tokenizer& tokenizer,
                const std::vector<std::string>& expected,
                int64_t max_new_tokens) {
  const int64_t in_front = tokenizer.bos() ? 1 : 0;
  return std::ranges::any_of(expected, [&](const std::string& text) {
    return std::ssize(tokenizer.encode(" " + text)) - in_front > max_new_tokens;
  });
}

RetrievalTask make_retrieval(const io::Tokenizer* tokenizer, const RetrievalOptions& options) {
  Samples samples;
  if (options.kind == RetrievalKind::Jsonl) {
    add_jsonl(*tokenizer, options, samples);
  } else {
    check_trial_counts("retrieval", {.lengths = std::ssize(options.lengths_tokens),
                                     .depths = options.depths,
                                     .trials = options.trials,
                                     .part = options.part,
                                     .parts = options.parts});
    if (is_recall(options.kind))
      add_recall(options, samples);
    else
      add_needles(*tokenizer, options, samples);
  }
  std::set<int64_t> lengths;
  for (const RetrievalTrial& trial : samples.trials)
    lengths.insert(trial.length_tokens);
  keep_part(options, samples);
  return {.tree = PromptTree(std::move(samples.blocks), std::move(samples.prompts)),
          .trials = std::move(samples.trials),
          .lengths_tokens = {lengths.begin(), lengths.end()},
          .samples = std::move(samples.counts)};
}

}  // namespace stuffed::eval
