#include "stuffed/eval/generate.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/eval/decode.h"

namespace stuffed::eval {

namespace {

// A text of fewer tokens is made sooner than a graph is recorded.
constexpr int64_t kWorthAGraph = 8;
// Tokens the GPU chooses and feeds by itself before their text is shown.
constexpr int64_t kTokensUnseen = 16;

void step(const RecurrentLM& model,
          const Recurrence& rule,
          const Tensor& tokens,
          SavedState& saved) {
  const Tensor hidden = model.forward(tokens, saved.state, rule).hidden;  // [1,T,D]
  saved.last_hidden = hidden.select(1, hidden.size(1) - 1).clone();
}

}  // namespace

void feed_prompt(const RecurrentLM& model,
                 const Recurrence& rule,
                 std::span<const int32_t> prompt,
                 int64_t segment,
                 SavedState& saved,
                 const std::function<void(int64_t fed)>& on_progress) {
  for (const int32_t id : prompt)
    check(id >= 0 && id < model.config().vocab, Error::Kind::Input,
          "token id {} is not in the model's vocabulary of {}; were the tokens made with the "
          "model's tokenizer?",
          id, model.config().vocab);
  for (size_t begin = 0; begin < prompt.size();) {
    const int64_t to_boundary = segment - saved.state.position % segment;
    const auto part =
        prompt.subspan(begin, std::min(prompt.size() - begin, static_cast<size_t>(to_boundary)));
    const Tensor tokens = at::tensor(at::ArrayRef<int32_t>(part.data(), part.size()), at::kLong);
    step(model, rule, tokens.unsqueeze(0).to(model.device()), saved);
    begin += part.size();
    if (on_progress)
      on_progress(static_cast<int64_t>(begin));
  }
}

Generated generate(const RecurrentLM& model,
                   const Recurrence& rule,
                   const io::Tokenizer* tokenizer,
                   const GenerateOptions& options,
                   SavedState& saved,
                   const std::function<void(int64_t id, const std::string& bytes)>& on_token) {
  check(saved.last_hidden.defined(), Error::Kind::Usage,
        "nothing to continue: give a prompt of at least one token, or --load-state");
  const auto stops = [&](const std::string& text) {
    return std::ranges::any_of(
        options.stop, [&](const std::string& stop) { return text.find(stop) != text.npos; });
  };
  Generated result{.new_tokens = {}, .bytes = {}, .stop_reason = "length"};
  if (options.max_new_tokens <= 0)
    return result;
  const auto add = [&](int64_t id) {
    std::string bytes;
    if (tokenizer && id < tokenizer->vocab_size()) {
      const auto narrow = static_cast<int32_t>(id);
      bytes = tokenizer->decode_bytes({&narrow, 1});
    }
    result.new_tokens.push_back(id);
    result.bytes += bytes;
    if (on_token)
      on_token(id, bytes);
  };
  DecodeSession session(model, rule, {.wants_graph = options.max_new_tokens >= kWorthAGraph});
  session.load(saved.state, saved.last_hidden);
  const bool only_length_stops =
      options.sampler.greedy && options.stop.empty() && !options.stop_eos;
  while (static_cast<int64_t>(result.new_tokens.size()) < options.max_new_tokens) {
    if (only_length_stops && model.device().is_cuda()) {
      const int64_t left = options.max_new_tokens - static_cast<int64_t>(result.new_tokens.size());
      const Tensor ids = session.greedy(std::min(left, kTokensUnseen)).select(0, 0);
      for (int64_t i = 0; i < ids.size(0); ++i)
        add(ids[i].item<int64_t>());
      continue;
    }
    const int64_t id = options.sampler.greedy ? session.likeliest().item<int64_t>()
                                              : sample(session.logits().select(0, 0),
                                                       options.sampler, session.position());
    if (options.stop_eos && tokenizer && tokenizer->eos() == id) {
      result.stop_reason = "eos";
      break;
    }
    add(id);
    session.step(at::full({1, 1}, id, at::kLong));
    if (stops(result.bytes)) {
      result.stop_reason = "stop";
      break;
    }
  }
  saved = {.state = session.state(), .last_hidden = session.last_hidden()};
  return result;
}

}  // namespace stuffed::eval
