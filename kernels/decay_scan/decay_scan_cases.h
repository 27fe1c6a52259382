// The named shapes and decays on which every implementation is tested, and timed.
#pragma once
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "kernels/decay_scan/decay_scan.h"
#include "kernels/decay_scan/decay_scan_terms.h"

namespace stuffed::scan_cases {

/// The terms of the recurrence that a case has, and who has them.
struct Variant {
  std::string name = "one decay per head";  // the family's
  ScanTerms terms = {.decay = DecayForm::PerHead, .shares_keys = true, .has_v_scale = true};
  bool raw = false;  // its gate, not what is made of it
};

inline const char* name_of(const Variant& variant) {
  return variant.name.c_str();
}

/// How fast the state forgets. Weak: around -0.01; Resets: 5 % of tokens at -200 among weak ones;
/// Alternating: 0, -60, 0, ...; Never: 0; Always: -1e4; Exactly: 10 % at -inf; Extreme: 10 % at
/// -1600; Tiny: -1e-8; OneStrong: channel 0 at -100, others weak.
enum class Decay { Weak, Resets, Alternating, Never, Always, Exactly, Extreme, Tiny, OneStrong };
inline constexpr Decay kDecays[] = {Decay::Weak,    Decay::Resets, Decay::Alternating,
                                    Decay::Never,   Decay::Always, Decay::Exactly,
                                    Decay::Extreme, Decay::Tiny,   Decay::OneStrong};

inline const char* name_of(Decay decay) {
  constexpr const char* kNames[] = {"weak",    "resets",  "alternating", "never",     "always",
                                    "exactly", "extreme", "tiny",        "one_strong"};
  return kNames[static_cast<int>(decay)];
}

struct Case {
  Variant variant = {};
  Decay decay = Decay::Weak;
  int64_t B = 1, T = 64, H = 2, K = 16, V = 8;
  at::ScalarType type = at::kFloat;  // of q, k, v; everything else is f64 if it is, f32 if not
  uint64_t seed = 0;

  std::string name() const {
    return std::string(name_of(variant)) + (variant.raw ? " raw/" : "/") + name_of(decay) + "/B" +
           std::to_string(B) + "_T" + std::to_string(T) + "_H" + std::to_string(H) + "_K" +
           std::to_string(K) + "_V" + std::to_string(V) + "_" + toString(type);
  }
};

struct Problem {
  ScanInputs in;
  Tensor state;
};

/// log decays of one pattern, <= 0.
inline Tensor make_log_decay(Decay decay, at::IntArrayRef shape, const at::TensorOptions& options) {
  const Tensor uniform = at::rand(shape, options);
  Tensor g = -0.01 * at::exp(at::randn(shape, options));
  switch (decay) {
    case Decay::Weak:
      return g;
    case Decay::Resets:
      return at::where(uniform < 0.05, at::full_like(g, -200), g);
    case Decay::Alternating:
      return (at::arange(shape[1], options).remainder(2) * -60)
          .view({1, -1, 1, 1})
          .expand(shape)
          .contiguous();
    case Decay::Never:
      return at::zeros_like(g);
    case Decay::Always:
      return at::full_like(g, -1e4);
    case Decay::Exactly:
      return at::where(uniform < 0.1, at::full_like(g, -std::numeric_limits<double>::infinity()),
                       g);
    case Decay::Extreme:
      return at::where(uniform < 0.1, at::full_like(g, -1600), g);
    case Decay::Tiny:
      return at::full_like(g, -1e-8);
    case Decay::OneStrong:
      g.select(-1, 0).fill_(-100);
      return g;
  }
  return g;
}

/// The gate from which these log decays [B,T,H,K] are made, as near as `type` has them and bounds
/// let them be. A forget gate's bounds are 0 in the first of several heads.
inline RawGate make_gate(GateKind kind, const Tensor& log_decay, at::ScalarType type) {
  const Tensor g = log_decay.to(at::kDouble);
  const std::vector<int64_t> per_channel = {g.size(2), g.size(3)};
  Tensor base, raw;
  if (kind == GateKind::NegativeExp) {
    base = at::randn(per_channel, log_decay.options());
    raw = (-g).log() - base;
  } else {
    base = at::rand(per_channel, log_decay.options()) * 0.9;
    if (base.size(0) > 1)
      base[0].zero_();
    raw = ((g.exp() - base) / (1 - base)).clamp_min(0).log() -
          (-g.expm1() / (1 - base)).clamp_max(1).log();
  }
  return {kind, raw.to(type), base};
}

/// Puts a gate in place of the log decay, and of k if it gives it.
inline void use_gate(ScanInputs& in, GateKind kind) {
  in.gate = make_gate(kind, in.log_decay, in.q.scalar_type());
  in.log_decay = Tensor();
  if (kind == GateKind::Forget)
    in.k = Tensor();
}

/// The decays of a case, in the form its terms have.
inline void make_decays(const Case& c, const at::TensorOptions& options, ScanInputs& in) {
  const std::vector<int64_t> per_head = {c.B, c.T, c.H, 1}, per_channel = {c.B, c.T, c.H, c.K};
  switch (c.variant.terms.decay) {
    case DecayForm::PerHead:
      in.log_decay = make_log_decay(c.decay, per_head, options);
      break;
    case DecayForm::PerChannel:
      in.log_decay = make_log_decay(c.decay, per_channel, options);
      if (c.variant.raw)
        use_gate(in, c.variant.terms.gate);
      break;
    case DecayForm::Constant:  // a pattern over tokens becomes one over channels
      in.log_decay = make_log_decay(c.decay, {1, c.K, c.H, 1}, options)
                         .permute({0, 3, 2, 1})
                         .expand(per_channel);
      break;
    case DecayForm::Factored: {  // -inf * 0 would be NaN, so "exactly 0" is an underflow here
      Tensor step = make_log_decay(c.decay, per_head, options).neg().squeeze(-1).clamp_max(1e5);
      in.factored_decay = FactoredDecay{step, -at::rand({c.H, c.K}, options) - 0.5, 0};
      break;
    }
  }
}

/// Random inputs of a case, laid out as a family of these terms passes them (expanded heads and
/// all). Equal seeds give equal values on one kind of device, not across kinds.
inline Problem make_problem(const Case& c, at::Device device = at::kCPU) {
  at::manual_seed(c.seed);
  const ScanTerms& terms = c.variant.terms;
  const at::ScalarType wide = c.type == at::kDouble ? at::kDouble : at::kFloat;
  const at::TensorOptions options = at::TensorOptions(wide).device(device);
  const auto normal = [&](at::IntArrayRef shape, double scale) {
    return (at::randn(shape, options) * scale).to(c.type);
  };
  const std::vector<int64_t> per_channel = {c.B, c.T, c.H, c.K};
  const auto keys = [&](double scale) {
    return terms.shares_keys ? normal({c.B, c.T, 1, c.K}, scale).expand(per_channel)
                             : normal(per_channel, scale);
  };
  Problem p;
  ScanInputs& in = p.in;
  in.q = keys(1);
  in.k = keys(1 / std::sqrt(static_cast<double>(c.K)));
  in.v = normal({c.B, c.T, c.H, c.V}, 1);
  p.state = at::randn({c.B, c.H, c.K, c.V}, options);
  make_decays(c, options, in);
  if (terms.has_v_scale)
    in.v_scale = at::rand({c.B, c.T, c.H}, options);
  if (terms.has_bonus)
    in.bonus = at::randn({c.H, c.K}, options);
  if (terms.has_erase) {
    const Tensor read = at::randn(per_channel, options);
    const Tensor unit_read = read / read.norm(2, -1, true);
    in.erase = Erase{unit_read.to(c.type), (unit_read * at::rand(per_channel, options)).to(c.type)};
  }
  return p;
}

}  // namespace stuffed::scan_cases
