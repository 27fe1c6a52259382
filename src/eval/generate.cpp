#include "stuffed/eval/generate.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

/// [vocab] f32 from hidden [1,D].
Tensor next_logits(const RecurrentLM& model, const Tensor& hidden) {
  const LmHead& head = model.head();
  return ops::linear(hidden, head.linear).to(at::kFloat).select(0, 0).narrow(0, 0, head.vocab);
}

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
          "token id {} is not in the model's vocabulary of {}; is it the model's tokenizer?", id,
          model.config().vocab);
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
  while (static_cast<int64_t>(result.new_tokens.size()) < options.max_new_tokens) {
    const int64_t id =
        sample(next_logits(model, saved.last_hidden), options.sampler, saved.state.position);
    if (options.stop_eos && tokenizer && tokenizer->eos() == id) {
      result.stop_reason = "eos";
      break;
    }
    std::string bytes;
    if (tokenizer && id < tokenizer->vocab_size()) {
      const auto narrow = static_cast<int32_t>(id);
      bytes = tokenizer->decode_bytes({&narrow, 1});
    }
    result.new_tokens.push_back(id);
    result.bytes += bytes;
    if (on_token)
      on_token(id, bytes);
    step(model, rule,
         at::full({1, 1}, id, at::TensorOptions().dtype(at::kLong).device(model.device())), saved);
    if (stops(result.bytes)) {
      result.stop_reason = "stop";
      break;
    }
  }
  return result;
}

}  // namespace stuffed::eval
