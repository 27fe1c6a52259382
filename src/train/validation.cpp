#include "src/train/validation.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "stuffed/ops/linear_cross_entropy.h"

namespace stuffed::train {

namespace {

constexpr int64_t kTokensAtOnce = 1024;  // bounds memory, changes rounding only
constexpr int64_t kFirstStretch = 64;

double mean_of(const Tensor& nll, int64_t begin, int64_t end) {
  return nll.slice(1, begin, end).mean().item<double>();
}

}  // namespace

Tensor validation_nll(const RecurrentLM& model, const Recurrence& rule, const Tensor& tokens) {
  const at::NoGradGuard no_grad;
  const int64_t length = tokens.size(1) - 1;
  State state = model.initial_state(tokens.size(0));
  std::vector<Tensor> parts;
  for (int64_t begin = 0; begin < length; begin += kTokensAtOnce) {
    const int64_t end = std::min(length, begin + kTokensAtOnce);
    const Output out = model.forward(tokens.slice(1, begin, end), state, rule);
    parts.push_back(ops::linear_cross_entropy(out.hidden, model.head().linear, model.head().vocab,
                                              tokens.slice(1, begin + 1, end + 1)));
  }
  return at::cat(parts, 1).to(at::kCPU, at::kDouble);
}

std::vector<int64_t> position_ends(int64_t length) {
  std::vector<int64_t> ends;
  for (int64_t end = kFirstStretch; end < length; end *= 2)
    ends.push_back(end);
  ends.push_back(length);
  return ends;
}

io::json validation_fields(const Tensor& nll, int64_t train_length) {
  const int64_t length = nll.size(1);
  io::json fields = {{"within_length_nats", mean_of(nll, 0, train_length)}};
  if (length > train_length)
    fields["beyond_length_nats"] = mean_of(nll, train_length, length);
  int64_t begin = 0;
  for (const int64_t end : position_ends(length)) {
    fields["by_position_nats"].push_back(mean_of(nll, begin, end));
    fields["position_ends"].push_back(end);
    begin = end;
  }
  return fields;
}

bool is_finite(const io::json& fields) {
  const auto finite = [](const io::json& x) { return std::isfinite(x.get<double>()); };
  return finite(fields.at("within_length_nats")) &&
         finite(fields.value("beyond_length_nats", io::json(0.0))) &&
         std::ranges::all_of(fields.at("by_position_nats"), finite);
}

}  // namespace stuffed::train
