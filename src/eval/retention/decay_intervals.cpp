#include "stuffed/eval/decay_intervals.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ATen.h>

#include "src/eval/decay_sums.h"
#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

constexpr double kHalf = 0.5;
// exp(-1e4) is 0 in f64, as exp(-inf) is, and its sums have differences: a -inf would make them
// NaN.
constexpr double kForgotten = -1e4;
constexpr int64_t kElements = 1 << 23;  // running sums kept at a time, 64 MB
constexpr int64_t kBlock = 64;          // tokens between two places where lives are looked at first

/// The decays of row 0, [T,H,K|1]: nats per token, or steps if they are factored.
Tensor decays_of(const ScanInputs& in) {
  if (in.factored_decay)
    return in.factored_decay->step.select(0, 0).unsqueeze(-1);
  return in.log_decay.select(0, 0);
}

/// log of the weight per key channel, from totals [...,H,K|1] and what is in nats beside them,
/// [...,H,1].
Tensor log_weight(const Tensor& totals, const Tensor& rate, const Tensor& nats) {
  return (rate.defined() ? totals * rate : totals) + nats;
}

/// Whether the mean weight is at least 1/2: [...,H,K|1] -> [...,H].
Tensor alive(const Tensor& totals, const Tensor& rate, const Tensor& nats) {
  const Tensor logs = log_weight(totals, rate, nats);
  return logs.size(-1) == 1 ? (logs >= std::log(kHalf)).squeeze(-1) : logs.exp().mean(-1) >= kHalf;
}

/// How many of the n tokens leave the mean weight at 1/2 or more, [H] int64; `before` [H,K|1] and
/// `nats` [H,1] are the totals when they begin, `offset` what every token adds to the latter.
/// Weights only fall, so the block where it happens is found at the blocks' ends, and the token
/// inside it.
Tensor count_alive(const Tensor& decay,
                   const Tensor& before,
                   const Tensor& rate,
                   const Tensor& nats,
                   double offset) {
  const int64_t n = decay.size(0), blocks = (n + kBlock - 1) / kBlock;
  const Tensor sums = at::constant_pad_nd(decay, {0, 0, 0, 0, 0, blocks * kBlock - n})
                          .cumsum(0)
                          .unflatten(0, {blocks, kBlock});  // [blocks,64,H,K|1]
  const Tensor offsets =
      (at::arange(1, blocks * kBlock + 1, nats.options()) * offset).view({blocks, kBlock, 1, 1});
  const Tensor whole =
      alive(before + sums.select(1, kBlock - 1), rate, nats + offsets.select(1, kBlock - 1))
          .sum(0);  // [H]
  const Tensor block = whole.clamp_max(blocks - 1);
  const auto of_block = [&](const Tensor& x) {  // [blocks,64,H,*] -> [64,H,*]
    return x.gather(0, block.view({1, 1, -1, 1}).expand({1, kBlock, -1, x.size(3)})).squeeze(0);
  };
  const Tensor within = alive(before + of_block(sums), rate,
                              nats + of_block(offsets.expand({-1, -1, block.size(0), -1})))
                            .sum(0);
  return at::where(whole < blocks, whole * kBlock + within, whole * kBlock).clamp_max(n);
}

}  // namespace

void DecayIntervals::watch(int64_t layers,
                           std::vector<Interval> sums,
                           std::vector<Interval> lives,
                           int64_t window) {
  window_ = window;
  cuts_.clear();
  for (const std::vector<Interval>* intervals : {&sums, &lives})
    for (const Interval& interval : *intervals) {
      check(interval.begin <= interval.end, Error::Kind::Internal,
            "DecayIntervals: interval [{}, {})", interval.begin, interval.end);
      cuts_.insert(cuts_.end(), {interval.begin, interval.end});
    }
  std::sort(cuts_.begin(), cuts_.end());
  sums_ = std::move(sums);
  lives_ = std::move(lives);
  layers_.assign(static_cast<size_t>(layers), {});
  erases_ = false;
}

void DecayIntervals::begin(Layer& layer, const ScanInputs& in) const {
  const int64_t heads = in.k.size(2);
  const int64_t width = in.factored_decay ? 1 : in.log_decay.size(3);
  const auto f64 = at::TensorOptions(at::kDouble).device(in.k.device());
  const auto sums = static_cast<int64_t>(sums_.size()), lives = static_cast<int64_t>(lives_.size());
  if (in.factored_decay)
    layer.rate = in.factored_decay->rate.to(at::kDouble);
  layer.sum_totals = at::zeros({sums, heads, width}, f64);
  layer.life_totals = at::zeros({lives, heads, width}, f64);
  layer.sum_nats = at::zeros({sums, heads, 1}, f64);
  layer.life_nats = at::zeros({lives, heads, 1}, f64);
  layer.lived = at::zeros({lives, heads}, f64.dtype(at::kLong));
  layer.alpha = at::zeros({1}, f64);
  layer.log_alpha = at::zeros({1}, f64);
}

int64_t DecayIntervals::piece_end(int64_t position, int64_t last, int64_t row_elements) const {
  const auto cut = std::upper_bound(cuts_.begin(), cuts_.end(), position);
  const int64_t border = cut == cuts_.end() ? last : std::min(last, *cut);
  return std::min(border, position + std::max<int64_t>(1, kElements / row_elements));
}

void DecayIntervals::on_update(Where where, const ScanInputs& in, const LayerState&) {
  if (layers_.empty() || in.k.size(1) == 0)
    return;
  Layer& layer = layers_.at(static_cast<size_t>(where.layer));
  if (!layer.lived.defined())
    begin(layer, in);
  erases_ = erases_ || in.erase.has_value();
  layer.alpha = layer.alpha + alpha_sum(in);
  layer.log_alpha = layer.log_alpha + log_decay_sum(in);
  layer.tokens += in.k.size(1);
  const Tensor decays = decays_of(in);
  const double offset = in.factored_decay ? std::max(in.factored_decay->offset, kForgotten) : 0.0;
  const int64_t last = where.position + decays.size(0);
  const int64_t row = decays.size(1) * decays.size(2);
  for (int64_t position = where.position; position < last;) {
    const int64_t end = piece_end(position, last, row);
    const Tensor piece = decays.narrow(0, position - where.position, end - position);
    add(layer, position, piece.to(at::kDouble).clamp_min(kForgotten), offset);
    position = end;
  }
}

/// `decay` [n,H,K|1]: of the tokens from `position`; no interval begins or ends among them.
void DecayIntervals::add(Layer& layer, int64_t position, const Tensor& decay, double offset) const {
  const auto acts = [&](const Interval& i) { return i.begin <= position && position < i.end; };
  const Tensor total = decay.sum(0);
  const double nats = offset * static_cast<double>(decay.size(0));
  for (size_t i = 0; i < sums_.size(); ++i)
    if (acts(sums_[i])) {
      layer.sum_totals[static_cast<int64_t>(i)].add_(total);
      layer.sum_nats[static_cast<int64_t>(i)].add_(nats);
    }

  for (size_t i = 0; i < lives_.size(); ++i)
    if (acts(lives_[i])) {
      Tensor before = layer.life_totals[static_cast<int64_t>(i)];
      Tensor nats_before = layer.life_nats[static_cast<int64_t>(i)];
      const Tensor count = count_alive(decay, before, layer.rate, nats_before, offset);
      // What is once below 1/2 stays there, so later pieces add nothing.
      layer.lived[static_cast<int64_t>(i)].add_(count);
      before.add_(total);
      nats_before.add_(nats);
    }
}

/// Tokens before `where.position` lose what the factor takes; a token that was still alive at the
/// last of them may be no more.
void DecayIntervals::on_rescale(Where where, const Tensor& factor) {
  if (layers_.empty())
    return;
  Layer& layer = layers_.at(static_cast<size_t>(where.layer));
  const int64_t read = where.position;
  const auto acts = [&](const Interval& i) { return i.begin <= read && read <= i.end; };
  const Tensor nats = factor.select(0, 0).log().clamp_min(kForgotten).unsqueeze(-1);  // [H,1]
  for (size_t i = 0; i < sums_.size(); ++i)
    if (acts(sums_[i]))
      layer.sum_nats[static_cast<int64_t>(i)].add_(nats);
  for (size_t i = 0; i < lives_.size(); ++i)
    if (acts(lives_[i]) && lives_[i].begin < read) {
      const Tensor totals = layer.life_totals[static_cast<int64_t>(i)];
      Tensor before = layer.life_nats[static_cast<int64_t>(i)];
      Tensor lived = layer.lived[static_cast<int64_t>(i)];
      const Tensor dies = lived.eq(read - lives_[i].begin)
                              .logical_and(alive(totals, layer.rate, before + nats).logical_not());
      lived.sub_(dies.to(at::kLong));
      before.add_(nats);
    }
}

DecayIntervals::Weights DecayIntervals::weights() const {
  std::vector<Tensor> mean, least, most;
  for (const Layer& layer : layers_) {
    check(layer.lived.defined(), Error::Kind::Internal, "DecayIntervals: a layer was never seen");
    Tensor weight = log_weight(layer.sum_totals, layer.rate, layer.sum_nats).exp();
    for (size_t i = 0; i < sums_.size(); ++i)  // weight [sums,H,K|1]
      if (window_ > 0 && sums_[i].end - sums_[i].begin >= window_)
        weight[static_cast<int64_t>(i)].fill_(0);
    mean.push_back(weight.mean(-1).t());
    least.push_back(weight.amin(-1).t());
    most.push_back(weight.amax(-1).t());
  }
  const auto gather = [](const std::vector<Tensor>& layers) {
    return at::stack(layers).to(at::kCPU).contiguous();
  };
  return {gather(mean), gather(least), gather(most)};
}

Tensor DecayIntervals::lived() const {
  std::vector<Tensor> layers;
  for (const Layer& layer : layers_) {
    check(layer.lived.defined(), Error::Kind::Internal, "DecayIntervals: a layer was never seen");
    const Tensor known = layer.life_totals.isfinite().all(-1).logical_and(
        layer.life_nats.isfinite().all(-1));  // [lives,H]
    const Tensor lived = window_ > 0 ? layer.lived.clamp_max(window_ - 1) : layer.lived;
    layers.push_back(at::where(known, lived, -1).t());
  }
  return at::stack(layers).to(at::kCPU).contiguous();
}

DecayIntervals::Alpha DecayIntervals::alpha() const {
  std::vector<Tensor> mean, geometric;
  for (const Layer& layer : layers_) {
    check(layer.tokens > 0, Error::Kind::Internal, "DecayIntervals: a layer was never seen");
    const auto tokens = static_cast<double>(layer.tokens);
    mean.push_back((layer.alpha / tokens).mean(-1));
    geometric.push_back((layer.log_alpha / tokens).mean(-1).exp());
  }
  return {at::stack(mean).to(at::kCPU), at::stack(geometric).to(at::kCPU)};
}

void DecayIntervals::save(Snapshot& snapshot, const std::string& name) const {
  snapshot.fields[name + ".erases"] = erases_ ? 1 : 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    // Copies: the next update writes through these.
    const auto put = [&](const char* what, const Tensor& tensor) {
      if (tensor.defined())
        snapshot.tensors[fmt::format("{}.{}.{}", name, i, what)] = tensor.clone();
    };
    const Layer& layer = layers_[i];
    put("rate", layer.rate);
    put("sums", layer.sum_totals);
    put("sum_nats", layer.sum_nats);
    put("lives", layer.life_totals);
    put("life_nats", layer.life_nats);
    put("lived", layer.lived);
    put("alpha", layer.alpha);
    put("log_alpha", layer.log_alpha);
    snapshot.fields[name + ".tokens"] = layer.tokens;  // the same in all layers
  }
}

void DecayIntervals::load(const Snapshot& snapshot, at::Device device, const std::string& name) {
  erases_ = snapshot.integer(name + ".erases", 0, 1) == 1;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto take = [&](const char* what, at::ScalarType dtype, int64_t axes) {
      return snapshot.at(fmt::format("{}.{}.{}", name, i, what), dtype, axes)
          .to(device, dtype, false, /*copy=*/true);
    };
    Layer& layer = layers_[i];
    if (snapshot.tensors.contains(fmt::format("{}.{}.rate", name, i)))
      layer.rate = take("rate", at::kDouble, 2);
    layer.sum_totals = take("sums", at::kDouble, 3);
    layer.sum_nats = take("sum_nats", at::kDouble, 3);
    layer.life_totals = take("lives", at::kDouble, 3);
    layer.life_nats = take("life_nats", at::kDouble, 3);
    layer.lived = take("lived", at::kLong, 2);
    layer.alpha = take("alpha", at::kDouble, 2);
    layer.log_alpha = take("log_alpha", at::kDouble, 2);
    layer.tokens = snapshot.integer(name + ".tokens", 1, std::numeric_limits<int64_t>::max());
    for (const Tensor& of_sums : {layer.sum_totals, layer.sum_nats})
      snapshot.check_that(of_sums.size(0) == std::ssize(sums_));
    for (const Tensor& of_lives : {layer.life_totals, layer.life_nats, layer.lived})
      snapshot.check_that(of_lives.size(0) == std::ssize(lives_));
  }
}

}  // namespace stuffed::eval
