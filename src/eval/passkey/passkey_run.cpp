// Asks the passkey prompts: greedy decoding from each prompt's state, and the loss of the true
// answer from the same state.
#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ATen.h>

#include "passkey_summary.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/decode.h"
#include "stuffed/eval/passkey.h"
#include "stuffed/ops/linear_cross_entropy.h"

namespace stuffed::eval {

namespace {

constexpr int64_t kMostTokens = std::numeric_limits<int64_t>::max();

/// What a model made of one prompt.
struct Answer {
  std::vector<int32_t> new_tokens;
  double nll_nats = 0;       // of the whole true answer
  int64_t tokens_right = 0;  // likeliest, the true ones before them given
};

class AnswerReader {
 public:
  AnswerReader(const RecurrentLM& model,
               const Recurrence& rule,
               int64_t max_new_tokens,
               int64_t spare_states)
      : model_(model), rule_(rule), max_new_tokens_(max_new_tokens), spare_states_(spare_states) {}

  /// One answer per row; `truths` are the rows' true answers.
  std::vector<Answer> read(const Leaves& leaves, const std::vector<std::vector<int32_t>>& truths) {
    std::vector<Answer> answers(truths.size());
    decode(leaves, answers);
    std::map<size_t, std::vector<int64_t>> by_length;
    for (size_t row = 0; row < truths.size(); ++row)
      by_length[truths[row].size()].push_back(int64_t(row));
    for (const auto& [length, rows] : by_length)
      score(leaves, rows, truths, answers);
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

  void decode(const Leaves& leaves, std::vector<Answer>& answers) {
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
    for (size_t row = 0; row < answers.size(); ++row) {
      const int32_t* const first = tokens[int64_t(row)].data_ptr<int32_t>();
      answers[row].new_tokens.assign(first, first + max_new_tokens_);
    }
  }

  /// Rows whose answers have equally many tokens.
  void score(const Leaves& leaves,
             const std::vector<int64_t>& rows,
             const std::vector<std::vector<int32_t>>& truths,
             std::vector<Answer>& answers) {
    std::vector<int64_t> flat;
    for (const int64_t row : rows)
      flat.insert(flat.end(), truths[size_t(row)].begin(), truths[size_t(row)].end());
    const auto count = int64_t(truths[size_t(rows.front())].size());
    const Tensor targets =
        at::tensor(flat, at::kLong).view({int64_t(rows.size()), count}).to(model_.device());
    const Tensor index = at::tensor(rows, at::kLong).to(model_.device());
    Tensor hidden = leaves.hidden.index_select(0, index).unsqueeze(1);  // [B,1,D]
    if (count > 1) {
      State state = rows.size() == truths.size() ? leaves.state : leaves.state.select(rows);
      hidden = at::cat({hidden, feed(targets.narrow(1, 0, count - 1), state)}, 1);
    }
    const LmHead& head = model_.head();
    const Tensor nll = ops::linear_cross_entropy(hidden, head.linear, head.vocab, targets)
                           .to(at::kDouble)
                           .sum(1)
                           .to(at::kCPU);
    const Tensor right = logits(hidden).argmax(-1).eq(targets).sum(1).to(at::kCPU);
    for (size_t i = 0; i < rows.size(); ++i) {
      answers[size_t(rows[i])].nll_nats = nll[int64_t(i)].item<double>();
      answers[size_t(rows[i])].tokens_right = right[int64_t(i)].item<int64_t>();
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

/// The first digits, after spaces, are the key.
bool is_exact(std::string_view prediction, std::string_view key) {
  const size_t first = prediction.find_first_not_of(' ');
  return first != prediction.npos && prediction.substr(first).starts_with(key);
}

io::json record_of(const PasskeyTrial& trial, const Answer& answer, const std::string& prediction) {
  io::json record = {{"length_tokens", trial.length_tokens},
                     {"prompt_tokens", trial.prompt_tokens},
                     {"total_tokens", trial.prompt_tokens + int64_t(answer.new_tokens.size())},
                     {"depth_index", trial.depth_index},
                     {"depth", trial.depth},
                     {"real_depth", trial.real_depth()},
                     {"trial", trial.trial},
                     {"blocks", trial.blocks},
                     {"position_blocks", trial.position_blocks},
                     {"repetition", trial.repetition},
                     {"needle_token", trial.needle_token},
                     {"passkey", trial.passkey},
                     {"prediction", prediction},
                     {"correct", prediction.find(trial.passkey) != prediction.npos},
                     {"exact", is_exact(prediction, trial.passkey)},
                     {"answer_nll_nats", answer.nll_nats},
                     {"answer_tokens", trial.answer.size()},
                     {"answer_tokens_right", answer.tokens_right}};
  if (trial.is_cut(int64_t(answer.new_tokens.size())))
    record["answer_cut"] = true;
  if (!std::isfinite(answer.nll_nats))
    record["finite"] = false;
  return record;
}

}  // namespace

TreeCount run_passkey(const RecurrentLM& model,
                      const Recurrence& rule,
                      const io::Tokenizer& tokenizer,
                      const PasskeyTask& task,
                      const PasskeyOptions& options,
                      const TreeLimits& limits,
                      io::Journal& journal,
                      Checkpoint& checkpoint,
                      const OnPasskeyProgress& on_progress) {
  const TreePlan plan = plan_tree(task.tree, limits);
  const std::optional<Snapshot> from = checkpoint.load();
  AnswerReader reader(model, rule, options.max_new_tokens, limits.states - plan.peak_states);
  int64_t asked = from ? from->integer("answer_tokens_fed", 0, kMostTokens) : 0;
  const auto is_done = [&](const PasskeyTrial& trial) { return journal.done(trial.key()); };
  PasskeyProgress progress{.prompts = int64_t(task.trials.size())};
  progress.prompts_done = std::ranges::count_if(task.trials, is_done);
  const auto on_leaves = [&](const Leaves& leaves) {
    std::vector<std::vector<int32_t>> truths;
    for (const auto& prompts : leaves.prompts)
      truths.push_back(task.trials[size_t(prompts.front())].answer);
    const std::vector<Answer> answers = reader.read(leaves, truths);
    for (size_t row = 0; row < answers.size(); ++row) {
      const std::string prediction = tokenizer.decode(answers[row].new_tokens);
      for (const int32_t prompt : leaves.prompts[row]) {
        const PasskeyTrial& trial = task.trials[size_t(prompt)];
        if (is_done(trial))
          continue;
        journal.append(trial.key(), record_of(trial, answers[row], prediction));
        ++progress.prompts_done;
      }
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
        feed_tree(model, rule, task.tree, plan, limits.segment_tokens,
                  [&](int32_t prompt) { return !is_done(task.trials[size_t(prompt)]); }, on_leaves,
                  {.on_reached = on_reached, .on_fed = on_fed, .from = from ? &*from : nullptr});
  } catch (const Error& error) {
    if (error.kind() == Error::Kind::Interrupted)
      checkpoint.stop();
    throw;
  }
  count.tokens_fed += asked + reader.tokens_fed();
  append_passkey_summaries(task.trials, options, journal);
  return count;
}

}  // namespace stuffed::eval
