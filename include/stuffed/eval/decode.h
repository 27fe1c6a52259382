// Decoding: the same few tokens per step, step after step, from states of its own.
#pragma once
#include <memory>
#include <string>

#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

struct DecodeOptions {
  int64_t batch = 1;            // B sequences side by side
  int64_t tokens_per_step = 1;  // T
  /// On a GPU a step is thousands of tiny kernels, and launching them takes longer than running
  /// them: they are recorded once and replayed as one. Recording costs about as much as four plain
  /// steps, so a session that will take fewer may do without.
  bool wants_graph = true;
};

/// Owns its states: a State is copied in by load() and out by state(), and no tensor is shared with
/// the caller. Steps give the numbers of RecurrentLM::forward. Between steps nothing waits for the
/// GPU. Where no graph can be recorded (the CPU, an update rule that depends on the position, a
/// capture that failed) plain forward calls do the same, and why_no_graph() says why.
///
///   DecodeSession session(*model, *rule, {.batch = 1});
///   session.load(state, last_hidden);
///   Tensor ids = session.greedy(100);  // [1,100], on the CPU
///   state = session.state();
///
/// The model and the rule must outlive it. No gradient is recorded.
class DecodeSession {
 public:
  DecodeSession(const RecurrentLM& model, const Recurrence& rule, const DecodeOptions& options);
  ~DecodeSession();
  DecodeSession(const DecodeSession&) = delete;
  DecodeSession& operator=(const DecodeSession&) = delete;

  /// Starts over from `state`, a batch of B on the model's device. `last_hidden` [B,D] predicts the
  /// next token; it may be undefined if tokens are to be fed first.
  void load(const State& state, const Tensor& last_hidden = {});

  /// Feeds tokens [B,T] int64, on any device.
  void step(const Tensor& tokens);

  /// The hidden rows [B,T,D] of the last step; overwritten by the next one.
  const Tensor& hidden() const { return hidden_; }
  Tensor last_hidden() const;  // [B,D], a copy: what predicts the next token

  /// f32 [B,vocab], from the last hidden row; overwritten by the next call.
  const Tensor& logits();
  /// The likeliest next token of each sequence, [B] int64 on the model's device; overwritten by the
  /// next call.
  const Tensor& likeliest();

  /// Feeds the likeliest token `count` times, each chosen on the device from what the one before
  /// left. Returns them, [B,count] int64 on the CPU. T must be 1.
  Tensor greedy(int64_t count);

  State state() const;  // a copy
  int64_t position() const { return state_.position; }
  int64_t batch() const { return options_.batch; }
  int64_t tokens_per_step() const { return options_.tokens_per_step; }

  /// Empty if steps replay a graph; else the reason why they do not.
  const std::string& why_no_graph() const { return why_no_graph_; }

 private:
  struct Graphs;

  void record();
  void run_step();
  void run_head();
  void choose();
  void advance();

  const RecurrentLM& model_;
  const Recurrence& rule_;
  const DecodeOptions options_;
  State state_;    // nobody else's
  Tensor tokens_;  // [B,T] int64: what the next step feeds
  Tensor hidden_;  // [B,T,D]
  Tensor last_;    // [B,D]; a view of hidden_ where a graph writes it
  Tensor logits_;  // [B,vocab] f32
  Tensor choice_;  // [B] int64
  bool is_loaded_ = false, has_hidden_ = false;
  std::string why_no_graph_;
  std::unique_ptr<Graphs> graphs_;
};

}  // namespace stuffed::eval
