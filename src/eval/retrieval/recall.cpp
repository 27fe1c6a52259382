// Associative recall: filler, pairs, filler, and the pairs' keys again.
#include <set>

#include "samples.h"
#include "stuffed/core/error.h"
#include "stuffed/core/rng.h"

namespace stuffed::eval {

namespace {

constexpr int32_t kFiller[] = {0};

/// The answer goes on with the queries that follow the first, their true answers fed.
void put_queries(const io::RecallSample& sample, int64_t gap, RetrievalTrial& one) {
  for (size_t i = 0; i < sample.queries.size(); ++i) {
    if (i > 0) {
      one.answer.insert(one.answer.end(), size_t(gap), kFiller[0]);
      one.answer.push_back(sample.queries[i]);
    }
    one.scored.push_back(std::ssize(one.answer));
    one.answer.push_back(sample.answers[i]);
  }
}

void add_length(const RetrievalOptions& options, int64_t length, Samples& samples) {
  const int64_t context = io::context_tokens(options.recall);
  const int64_t filler = length - context - io::query_tokens(options.recall);
  check(filler >= 0, Error::Kind::Usage,
        "--lengths: {} tokens have no room for {} of pairs and {} of queries; give longer ones, or "
        "fewer --pairs or --queries",
        length, context, length - context - filler);
  const int32_t nothing = samples.blocks.add(kFiller);
  Placement placement(options, length, filler + 1);
  for (int64_t i = 0; i < options.depths * options.trials; ++i) {
    std::string name;
    int64_t before = 0;
    RetrievalTrial one = placement.next(before, name);
    Rng rng(options.seed, "mqar/" + name);
    const io::RecallSample sample = io::draw_recall(rng, options.recall);
    put_queries(sample, options.recall.gap, one);
    Prompt prompt;
    if (before > 0)
      prompt.push_back({nothing, before});
    prompt.push_back({samples.blocks.add(sample.context), 1});
    if (filler > before)
      prompt.push_back({nothing, filler - before});
    prompt.push_back({samples.blocks.add({sample.queries.data(), 1}), 1});
    one.prompt_tokens = token_count(samples.blocks, prompt);
    one.needle_token = before;
    one.more["query"] = sample.queries;
    if (options.recall.updates > 0)
      one.more["updated"] = sample.is_updated;
    samples.prompts.push_back(std::move(prompt));
    samples.trials.push_back(std::move(one));
  }
}

}  // namespace

void add_recall(const RetrievalOptions& options, Samples& samples) {
  io::check_recall(options.recall);
  for (const int64_t length :
       std::set<int64_t>(options.lengths_tokens.begin(), options.lengths_tokens.end()))
    add_length(options, length, samples);
}

}  // namespace stuffed::eval
