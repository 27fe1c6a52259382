#include "ask_prompts.h"

#include <algorithm>
#include <limits>
#include <ranges>
#include <set>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/eval/decode.h"
#include "stuffed/ops/linear_cross_entropy.h"

namespace stuffed::eval {

namespace {

constexpr int64_t kMostTokens = std::numeric_limits<int64_t>::max();

/// A true answer, after the prompts of a row.
struct Truth {
  int64_t row;
  const std::vector<int32_t>* tokens;
};

class AnswerReader {
 public:
  AnswerReader(const RecurrentLM& model,
               const Recurrence& rule,
               int64_t max_new_tokens,
               int64_t spare_states)
      : model_(model), rule_(rule), max_new_tokens_(max_new_tokens), spare_states_(spare_states) {}

  /// One answer per true answer.
  std::vector<Answer> read(const Leaves& leaves, const std::vector<Truth>& truths) {
    std::vector<Answer> answers(truths.size());
    if (max_new_tokens_ > 0)
      decode(leaves, truths, answers);
    std::map<size_t, std::vector<size_t>> by_length;
    for (size_t i = 0; i < truths.size(); ++i)
      by_length[truths[i].tokens->size()].push_back(i);
    for (const auto& [length, which] : by_length)
      if (length > 0)
        score(leaves, which, truths, answers);
    return answers;
  }

  int64_t tokens_fed() const { return tokens_fed_; }

 private:
  Tensor logits(const Tensor& hidden) const {  // [...,vocab] f32
    return ops::linear(hidden, model_.head().linear)
        .narrow(-1, 0, model_.head().vocab)
        .to(at::kFloat);
  }

  Tensor feed(const Tensor& tokens, State& state) {
    tokens_fed_ += tokens.numel();
    return model_.forward(tokens, state, rule_).hidden;
  }

  /// The session that batches of this size share, or null. An answer is too short to record a graph
  /// for a size that may never come again, and a session's buffers are states that stay: there is
  /// one, for the size seen most often, if the states fit beside the tree's.
  DecodeSession* recorded_session(int64_t batch) {
    const int64_t seen = ++seen_[batch];
    if (!model_.device().is_cuda() || batch > spare_states_)
      return nullptr;
    if (session_ && session_->batch() == batch)
      return session_.get();
    if (seen <= (session_ ? seen_[session_->batch()] : 1))
      return nullptr;
    session_.reset();  // first, so that two never share the memory
    session_ = std::make_unique<DecodeSession>(model_, rule_, DecodeOptions{.batch = batch});
    return session_.get();
  }

  void decode(const Leaves& leaves,
              const std::vector<Truth>& truths,
              std::vector<Answer>& answers) {
    const int64_t batch = leaves.hidden.size(0);
    std::unique_ptr<DecodeSession> passing;
    DecodeSession* recorded = recorded_session(batch);
    if (!recorded)
      passing = std::make_unique<DecodeSession>(
          model_, rule_, DecodeOptions{.batch = batch, .wants_graph = false});
    DecodeSession& session = recorded ? *recorded : *passing;
    session.load(leaves.state, leaves.hidden);
    const Tensor fed = session.greedy(max_new_tokens_ - 1);
    tokens_fed_ += fed.numel();
    const Tensor last = session.likeliest().to(at::kCPU).unsqueeze(1);  // chosen, and not fed
    const Tensor tokens = at::cat({fed, last}, 1).to(at::kInt).contiguous();
    for (size_t i = 0; i < truths.size(); ++i) {
      const int32_t* const first = tokens[truths[i].row].data_ptr<int32_t>();
      answers[i].new_tokens.assign(first, first + max_new_tokens_);
    }
  }

  /// True answers of equally many tokens.
  void score(const Leaves& leaves,
             const std::vector<size_t>& which,
             const std::vector<Truth>& truths,
             std::vector<Answer>& answers) {
    std::vector<int64_t> flat, rows;
    for (const size_t i : which) {
      rows.push_back(truths[i].row);
      flat.insert(flat.end(), truths[i].tokens->begin(), truths[i].tokens->end());
    }
    const auto count = int64_t(truths[which.front()].tokens->size());
    const Tensor targets =
        at::tensor(flat, at::kLong).view({int64_t(rows.size()), count}).to(model_.device());
    const Tensor index = at::tensor(rows, at::kLong).to(model_.device());
    Tensor hidden = leaves.hidden.index_select(0, index).unsqueeze(1);  // [B,1,D]
    if (count > 1) {
      const bool is_all =
          std::ranges::equal(rows, std::views::iota(int64_t{0}, leaves.hidden.size(0)));
      State state = is_all ? leaves.state : leaves.state.select(rows);
      hidden = at::cat({hidden, feed(targets.narrow(1, 0, count - 1), state)}, 1);
    }
    const LmHead& head = model_.head();
    const Tensor nll =
        ops::linear_cross_entropy(hidden, head.linear, head.vocab, targets).to(at::kDouble);
    const Tensor sums = nll.sum(1).to(at::kCPU), each = nll.to(at::kCPU).contiguous();
    const Tensor best = logits(hidden).argmax(-1);
    const Tensor right = best.eq(targets).sum(1).to(at::kCPU);
    const Tensor ids = best.to(at::kCPU).to(at::kInt).contiguous();
    for (size_t i = 0; i < which.size(); ++i) {
      Answer& answer = answers[which[i]];
      const auto row = int64_t(i);
      answer.nll_nats = sums[row].item<double>();
      answer.tokens_right = right[row].item<int64_t>();
      const int32_t* const id = ids[row].const_data_ptr<int32_t>();
      const double* const loss = each[row].const_data_ptr<double>();
      answer.likeliest.assign(id, id + count);
      answer.token_nll_nats.assign(loss, loss + count);
    }
  }

  const RecurrentLM& model_;
  const Recurrence& rule_;
  const int64_t max_new_tokens_;
  const int64_t spare_states_;       // that a session may keep
  std::map<int64_t, int64_t> seen_;  // batches, by size
  std::unique_ptr<DecodeSession> session_;
  int64_t tokens_fed_ = 0;
};

/// The true answers after a batch of prompts. Equal prompts may have several, of which equal ones are
/// read once.
struct Asked {
  std::vector<Truth> truths = {};
  std::vector<std::vector<std::pair<int32_t, size_t>>> prompts = {};  // of each row, with its truth
};

Asked asked_of(const Leaves& leaves, const Questions& questions) {
  Asked asked;
  for (size_t row = 0; row < leaves.prompts.size(); ++row) {
    const size_t first = asked.truths.size();
    auto& own = asked.prompts.emplace_back();
    for (const int32_t prompt : leaves.prompts[row]) {
      const std::vector<int32_t>& answer = questions.answer(size_t(prompt));
      size_t index = first;
      while (index < asked.truths.size() && *asked.truths[index].tokens != answer)
        ++index;
      if (index == asked.truths.size())
        asked.truths.push_back({int64_t(row), &answer});
      own.emplace_back(prompt, index);
    }
  }
  return asked;
}

}  // namespace

TreeCount ask_prompts(const RecurrentLM& model,
                      const Recurrence& rule,
                      const Questions& questions,
                      const TreeLimits& limits,
                      io::Journal& journal,
                      Checkpoint& checkpoint,
                      const OnPromptProgress& on_progress) {
  const PromptTree& tree = questions.tree;
  const TreePlan plan = plan_tree(tree, limits);
  const std::optional<Snapshot> from = checkpoint.load();
  AnswerReader reader(model, rule, questions.max_new_tokens, limits.states - plan.peak_states);
  int64_t asked = from ? from->integer("answer_tokens_fed", 0, kMostTokens) : 0;
  const auto is_done = [&](int32_t prompt) { return journal.done(questions.key(size_t(prompt))); };
  PromptProgress progress{.prompts = int64_t(tree.prompts().size())};
  for (size_t prompt = 0; prompt < tree.prompts().size(); ++prompt)
    progress.prompts_done += is_done(int32_t(prompt)) ? 1 : 0;
  const auto on_leaves = [&](const Leaves& leaves) {
    const Asked rows = asked_of(leaves, questions);
    const std::vector<Answer> answers = reader.read(leaves, rows.truths);
    for (const auto& prompts : rows.prompts)
      for (const auto& [prompt, index] : prompts) {
        if (is_done(prompt))
          continue;
        journal.append(questions.key(size_t(prompt)),
                       questions.record(size_t(prompt), answers[index]));
        ++progress.prompts_done;
      }
    on_progress(progress);
  };
  const auto on_reached = [&](const std::function<void(Snapshot&)>& fill) {
    checkpoint.reached([&] {
      Snapshot snapshot{.place = "prompts"};
      fill(snapshot);
      snapshot.fields["answer_tokens_fed"] = asked + reader.tokens_fed();
      return snapshot;
    });
  };
  const auto on_fed = [&](int64_t fed, int64_t total) {
    progress.tokens_done = fed;  // answers are a few tokens a prompt, and left out
    progress.tokens = total;
    on_progress(progress);
  };
  TreeCount count;
  try {
    count =
        feed_tree(model, rule, tree, plan, limits.segment_tokens,
                  [&](int32_t prompt) { return !is_done(prompt); }, on_leaves,
                  {.on_reached = on_reached, .on_fed = on_fed, .from = from ? &*from : nullptr});
  } catch (const Error& error) {
    if (error.kind() == Error::Kind::Interrupted)
      checkpoint.stop();
    throw;
  }
  count.tokens_fed += asked + reader.tokens_fed();
  return count;
}

int64_t tokens_to_feed(const Questions& questions) {
  const std::vector<int32_t>& ends = questions.tree.ends();
  const std::set<int32_t> nodes(ends.begin(), ends.end());
  std::set<std::pair<int32_t, std::vector<int32_t>>> answers;
  for (size_t prompt = 0; prompt < ends.size(); ++prompt)
    answers.emplace(ends[prompt], questions.answer(prompt));
  int64_t sum = questions.tree.tree_tokens();
  sum += std::max<int64_t>(0, questions.max_new_tokens - 1) * std::ssize(nodes);
  for (const auto& [node, tokens] : answers)
    sum += std::max<int64_t>(0, std::ssize(tokens) - 1);
  return sum;
}

}  // namespace stuffed::eval
