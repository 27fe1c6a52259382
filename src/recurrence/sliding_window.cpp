// Reads only the last r tokens: the state minus what the tokens before them left in it.
#include <cmath>

#include <ATen/ATen.h>

#include "arguments.h"
#include "inputs.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/core/error.h"
#include "stuffed/recurrence/window.h"
#include "wrappers.h"

namespace stuffed::recurrence {

namespace {

/// What the window must remember of a token, by slot; all [B,T,...].
using Tokens = std::map<std::string, Tensor>;

constexpr char kOlder[] = "window.older";

Tokens select_tokens(const Tokens& tokens, int64_t begin, int64_t length) {
  Tokens out;
  for (const auto& [slot, x] : tokens)
    out[slot] = x.narrow(1, begin, length);
  return out;
}

/// The inputs' own tokens; heads that share a value are kept once.
Tokens tokens_of(const ScanInputs& in) {
  const auto once = [](const Tensor& x) { return shares_heads(x) ? x.narrow(2, 0, 1) : x; };
  Tokens tokens = {{"window.k", once(in.k)}, {"window.v", once(in.v)}};
  tokens["window.decay"] =
      in.factored_decay ? in.factored_decay->step.unsqueeze(-1) : in.log_decay;  // [B,T,H,1|K]
  if (in.v_scale)
    tokens["window.v_scale"] = *in.v_scale;
  return tokens;
}

Tensor append(Tensor before, Tensor now) {
  if (before.dim() == 4 && before.size(2) != now.size(2)) {
    const int64_t heads = std::max(before.size(2), now.size(2));
    before = before.expand({-1, -1, heads, -1});
    now = now.expand({-1, -1, heads, -1});
  }
  return at::cat({before, now}, 1);
}

/// f64 [B,n,H,1|K]: for each of the last n tokens of x [B,r+n,H,1|K], n <= r, the sum over the r
/// tokens that end with it, its own left out unless `with_own`. Every sum is a sum: no difference
/// of running totals is taken, so -inf does no harm and nothing cancels.
Tensor window_sums(const Tensor& x, int64_t r, bool with_own) {
  const int64_t n = x.size(1) - r;
  const Tensor zero = at::zeros_like(x.narrow(1, 0, 1), at::kDouble);
  const auto wide = [&](int64_t begin, int64_t length) {
    return x.narrow(1, begin, length).to(at::kDouble);
  };
  const Tensor early = at::cat({wide(1, n - 1), zero}, 1).flip(1).cumsum(1).flip(1);
  const Tensor middle = x.narrow(1, n, r - n).sum(1, true, at::kDouble);
  const Tensor late = (with_own ? wide(r, n) : at::cat({zero, wide(r, n - 1)}, 1)).cumsum(1);
  return early + middle + late;
}

/// The recurrent state holds the last r tokens at the end of every piece. Within a piece it also
/// holds those that leave on the way; a second scan, of the tokens leaving, says what to subtract.
class SlidingWindow : public Recurrence {
 public:
  SlidingWindow(Inner inner, int64_t tokens) : inner_(std::move(inner)), tokens_(tokens) {}

  Tensor advance(Where where, const ScanInputs& given, LayerState& layer) const override {
    const ScanInputs in = ops::with_log_decay(given);
    check(!in.erase, Error::Kind::Unsupported,
          "mitigation sliding_window: subtracting the tokens that have left the window needs a "
          "decay that is one number per channel, but the delta rule (RWKV-7) mixes channels");
    const Tokens all = held_and_new(where, in, layer);
    const int64_t T = in.q.size(1), held = all.at("window.k").size(1) - T;
    std::vector<Tensor> parts;
    int64_t begin = 0;
    do {
      const Where here = {where.layer, where.position + begin};
      const int64_t length = std::min(T - begin, piece_tokens(here.position, in));
      const ScanInputs piece = kernels::tokens_of(in, begin, begin + length);
      parts.push_back(here.position < tokens_ || length == 0
                          ? inner_->advance(here, piece, layer)
                          : slide(here, piece,
                                  select_tokens(all, held + begin - tokens_, tokens_ + length),
                                  layer));
      begin += length;
      if (length > 0 && (here.position + length) % tokens_ == 0)
        restart(layer);
    } while (begin < T);
    const int64_t kept = std::min(tokens_, held + T);
    for (const auto& [slot, x] : all)
      layer.extra[slot] = x.narrow(1, held + T - kept, kept).contiguous();
    return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
  }

  std::string replay_obstacle() const override {
    return "mitigation sliding_window depends on how much of the window is filled";
  }

 private:
  Tokens held_and_new(Where where, const ScanInputs& in, const LayerState& layer) const {
    const auto k = layer.extra.find("window.k");
    const int64_t held = k == layer.extra.end() ? 0 : k->second.size(1);
    check(held == std::min(where.position, tokens_), Error::Kind::Input,
          "mitigation sliding_window: the state at token {} remembers the last {} tokens, expected "
          "{}; it was made without this mitigation, or with another window",
          where.position, held, std::min(where.position, tokens_));
    Tokens tokens = tokens_of(in);
    if (held > 0)
      for (auto& [slot, x] : tokens)
        x = append(layer.extra.at(slot), x);
    return tokens;
  }

  /// Pieces end at multiples of r; once tokens leave, they are also short enough for the weighted
  /// queries [B,n,H,K] to stay small.
  int64_t piece_tokens(int64_t position, const ScanInputs& in) const {
    constexpr int64_t kElements = 1 << 24;  // 64 MB of f32
    const int64_t to_border = tokens_ - position % tokens_;
    if (position < tokens_)
      return to_border;
    const int64_t row = in.q.size(0) * in.q.size(2) * in.q.size(3);
    return std::min(to_border, std::clamp<int64_t>(kElements / row, 64, 1024));
  }

  /// The log of what is left of a token's weight over the summed decay inputs of `count` tokens;
  /// f64 [B,n,H,1|K].
  static Tensor elapsed(const ScanInputs& in, const Tensor& sum, int64_t count) {
    if (!in.factored_decay)
      return sum;
    return sum * in.factored_decay->rate.to(at::kDouble) +
           static_cast<double>(count) * in.factored_decay->offset;
  }

  /// `window`: the tokens from r before the piece to its end, [B,r+n,...].
  Tensor slide(Where where,
               const ScanInputs& piece,
               const Tokens& window,
               LayerState& layer) const {
    const at::ScalarType type = layer.recurrent.scalar_type();
    const int64_t n = piece.q.size(1), r = tokens_;
    ScanInputs now = piece;  // in f32, so that the difference is rounded once
    now.q = piece.q.to(type);
    now.v = piece.v.to(type);
    Tensor y = inner_->advance(where, now, layer);

    // With a bonus, y_t reads the state before token t is in it.
    const bool with_own = !piece.bonus;
    const Tensor weights =
        elapsed(piece, window_sums(window.at("window.decay"), r, with_own), with_own ? r : r - 1);
    LayerState behind{
        .recurrent = at::zeros_like(layer.recurrent), .conv = {}, .shift = {}, .extra = {}};
    const ScanInputs leaving =
        leaving_inputs(piece, select_tokens(window, 0, n), now.q * weights.exp().to(type));
    y = y - inner_->advance({where.layer, where.position - r}, leaving, behind);

    const auto fade = [&](int64_t begin, int64_t count) {  // [B,H,1|K,1]
      const Tensor sum =
          window.at("window.decay").narrow(1, begin, count).sum(1, true, at::kDouble);
      return elapsed(piece, sum, count).exp().to(type).squeeze(1).unsqueeze(-1);
    };
    const Tensor left = fade(n, r) * behind.recurrent;
    layer.recurrent = layer.recurrent - left;
    Tensor& older = layer.extra.at(kOlder);
    older = fade(r, n) * older - left;
    return y.to(piece.v.scalar_type());
  }

  static ScanInputs leaving_inputs(const ScanInputs& in, const Tokens& tokens, const Tensor& q) {
    const Tensor& decay = tokens.at("window.decay");
    const int64_t heads = q.size(2);
    const auto to_heads = [&](const char* slot) {
      return tokens.at(slot).to(q.scalar_type()).expand({-1, -1, heads, -1});
    };
    ScanInputs out = {.q = q,
                      .k = to_heads("window.k"),
                      .v = to_heads("window.v"),
                      .log_decay = in.factored_decay ? Tensor() : decay};
    if (in.factored_decay)
      out.factored_decay =
          FactoredDecay{decay.squeeze(-1), in.factored_decay->rate, in.factored_decay->offset};
    if (in.v_scale)
      out.v_scale = tokens.at("window.v_scale");
    return out;
  }

  /// At a multiple of r, what is left of the tokens before the last r ones is nothing but rounding:
  /// taking it out keeps errors from living on where nothing is forgotten.
  static void restart(LayerState& layer) {
    const auto older = layer.extra.find(kOlder);
    if (older != layer.extra.end())
      layer.recurrent = layer.recurrent - older->second;
    layer.extra[kOlder] = layer.recurrent;
  }

  Inner inner_;
  int64_t tokens_;  // r
};

}  // namespace

Inner make_sliding_window(Arguments arguments, Inner inner, const Building&) {
  const int64_t tokens = arguments.integer("tokens", std::nullopt, 1);
  arguments.finish();
  return std::make_shared<SlidingWindow>(std::move(inner), tokens);
}

}  // namespace stuffed::recurrence

namespace stuffed {

int64_t window_tokens(const std::vector<std::string>& mitigations) {
  for (const std::string& mitigation : mitigations) {
    recurrence::Arguments arguments(mitigation);
    if (arguments.name() == "sliding_window")
      return arguments.integer("tokens", std::nullopt, 1);
  }
  return 0;
}

int64_t extra_bytes(const LayerState& first, int64_t window, int64_t tokens) {
  int64_t bytes = 0;
  for (const auto& [slot, x] : first.extra)
    if (slot != recurrence::kOlder)
      bytes += static_cast<int64_t>(x.nbytes()) *
               (slot.starts_with("window.") ? std::min(window, tokens) : 1);
  if (window > 0 && tokens >= window)  // from then on there is an older state, too
    bytes += static_cast<int64_t>(first.recurrent.nbytes());
  return bytes;
}

}  // namespace stuffed
