// A few tokens on the CPU, one after the other in f32: decoding. The state is read and written
// once, a head at a time; ATen's form would take dozens of passes through memory.
#include <algorithm>
#include <cstring>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "kernels/common/levels.h"
#include "kernels/decay_scan/decay_scan.h"

namespace stuffed::kernels {

namespace {

/// A dense f32 copy of an input over time; one head where all heads share it.
struct TimeRows {
  Tensor dense;  // [B,T,H|1,C]; undefined if the input is absent
  int64_t heads = 0, width = 0;

  TimeRows() = default;
  explicit TimeRows(const Tensor& x) {
    const Tensor wide = x.dim() == 3 ? x.unsqueeze(-1) : x;
    const bool shared = wide.size(2) > 1 && wide.stride(2) == 0;
    dense = (shared ? wide.narrow(2, 0, 1) : wide).to(at::kFloat).contiguous();
    heads = dense.size(2);
    width = dense.size(3);
  }
  explicit TimeRows(const std::optional<Tensor>& x) : TimeRows(x ? TimeRows(*x) : TimeRows()) {}

  /// Row h of token i = b * T + t.
  const float* at(int64_t i, int64_t h) const {
    return dense.const_data_ptr<float>() + (i * heads + (heads == 1 ? 0 : h)) * width;
  }
};

/// One token of one head. TimeRows of K or V numbers; null if absent.
struct Token {
  const float* __restrict q;
  const float* __restrict k;
  const float* __restrict keep;  // the two parts of exp(log_decay), of every key
  const float* __restrict change;
  const float* __restrict value;  // as inserted
  const float* __restrict read;   // erase
  const float* __restrict write;  // erase
  float* __restrict erased;       // scratch
  float* __restrict y;
};

STUFFED_INLINE void read_state(const float* __restrict state,
                               const float* __restrict weights,
                               float* __restrict sums,
                               int64_t K,
                               int64_t V) {
  for (int64_t i = 0; i < V; ++i)
    sums[i] = 0;
  for (int64_t c = 0; c < K; ++c)
    for (int64_t i = 0; i < V; ++i)
      sums[i] += weights[c] * state[c * V + i];
}

STUFFED_INLINE void update(float* __restrict state, const Token& token, int64_t K, int64_t V) {
  const float* __restrict value = token.value;
  float* __restrict y = token.y;
  for (int64_t c = 0; c < K; ++c) {
    float* __restrict row = state + c * V;
    const float keep = token.keep[c], change = token.change[c], k = token.k[c], q = token.q[c];
    for (int64_t i = 0; i < V; ++i) {
      row[i] = (row[i] * change + row[i] * keep) + k * value[i];
      y[i] += q * row[i];
    }
  }
}

STUFFED_INLINE void update_erasing(float* __restrict state,
                                   const Token& token,
                                   int64_t K,
                                   int64_t V) {
  const float* __restrict value = token.value;
  const float* __restrict erased = token.erased;
  float* __restrict y = token.y;
  for (int64_t c = 0; c < K; ++c) {
    float* __restrict row = state + c * V;
    const float keep = token.keep[c], change = token.change[c], k = token.k[c], q = token.q[c],
                write = token.write[c];
    for (int64_t i = 0; i < V; ++i) {
      row[i] = (row[i] * change + row[i] * keep) + (k * value[i] - write * erased[i]);
      y[i] += q * row[i];
    }
  }
}

STUFFED_INLINE void state_decays(const float* __restrict log_decay,
                                 float* __restrict keep,
                                 float* __restrict change,
                                 int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const StateDecay decay = state_decay_inline(log_decay[i]);
    keep[i] = decay.keep;
    change[i] = decay.change;
  }
}

/// Factored decay, one value column: a head is a channel, and its rows lie side by side.
struct Channels {
  const float* __restrict step;   // [H]
  const float* __restrict rate;   // [H,K]
  const float* __restrict value;  // [H], as inserted
  float offset;
  const float* __restrict q;  // row of the first head
  const float* __restrict k;
  int64_t stride;  // of q and k from head to head; 0 if they share
  float* __restrict y;
};

STUFFED_INLINE void update_channels(float* __restrict state,
                                    const Channels& in,
                                    int64_t heads,
                                    int64_t K) {
  for (int64_t h = 0; h < heads; ++h) {
    float* __restrict row = state + h * K;
    const float* __restrict rate = in.rate + h * K;
    const float* __restrict q = in.q + h * in.stride;
    const float* __restrict k = in.k + h * in.stride;
    const float step = in.step[h], value = in.value[h], offset = in.offset;
    for (int64_t c = 0; c < K; ++c) {
      const StateDecay decay = state_decay_inline(step * rate[c] + offset);
      row[c] = (row[c] * decay.change + row[c] * decay.keep) + k[c] * value;
    }
    float sum = 0;
    for (int64_t c = 0; c < K; ++c)
      sum += q[c] * row[c];
    in.y[h] = sum;
  }
}

struct Inputs {
  TimeRows q, k, v, value, log_decay, step, read, write, bonus_k;
  Tensor rate, bonus;  // [H,K]
  int64_t B, T, H, K, V;

  Inputs(const ScanInputs& in, const Tensor& state)
      : q(in.q),
        k(in.k),
        v(in.v),
        value(in.v_scale ? TimeRows(v.dense * in.v_scale->unsqueeze(-1)) : v),
        log_decay(in.factored_decay ? TimeRows() : TimeRows(in.log_decay)),
        step(in.factored_decay ? TimeRows(in.factored_decay->step) : TimeRows()),
        read(in.erase ? TimeRows(in.erase->read) : TimeRows()),
        write(in.erase ? TimeRows(in.erase->write) : TimeRows()),
        bonus_k(in.bonus_k),
        rate(in.factored_decay ? in.factored_decay->rate.contiguous() : Tensor()),
        bonus(in.bonus ? in.bonus->contiguous() : Tensor()),
        B(state.size(0)),
        T(in.q.size(1)),
        H(state.size(1)),
        K(state.size(2)),
        V(state.size(3)) {}
};

/// What a token sees of itself through the bonus: sum_c q_c u_c k_c.
float self_weight(const Inputs& in, int64_t i, int64_t h) {
  const float* const q = in.q.at(i, h);
  const float* const k = in.bonus_k.dense.defined() ? in.bonus_k.at(i, h) : in.k.at(i, h);
  const float* const u = in.bonus.const_data_ptr<float>() + h * in.K;
  float sum = 0;
  for (int64_t c = 0; c < in.K; ++c)
    sum += q[c] * u[c] * k[c];
  return sum;
}

void advance_head(const Inputs& in, int64_t b, int64_t h, float* state, float* y) {
  std::vector<float> scratch(static_cast<size_t>(2 * in.K + 2 * in.V));
  float* const keep = scratch.data();
  float* const change = keep + in.K;
  float* const erased = change + in.K;
  float* const unread = erased + in.V;  // y of the update, where y reads before it
  for (int64_t t = 0; t < in.T; ++t) {
    const int64_t i = b * in.T + t;
    float* const out = y + (i * in.H + h) * in.V;
    const float* const log_decay = in.log_decay.at(i, h);
    wide<state_decays>(log_decay, keep, change, in.log_decay.width);
    if (in.log_decay.width < in.K) {
      std::fill_n(keep, in.K, keep[0]);
      std::fill_n(change, in.K, change[0]);
    }
    Token token{in.q.at(i, h), in.k.at(i, h), keep,   change, in.value.at(i, h),
                nullptr,       nullptr,       erased, out};
    if (in.bonus.defined()) {
      wide<read_state>(state, token.q, out, in.K, in.V);
      const float self = self_weight(in, i, h);
      const float* const v = in.v.at(i, h);
      for (int64_t j = 0; j < in.V; ++j)
        out[j] += self * v[j];
      token.y = unread;
    }
    std::fill_n(token.y, in.V, 0.0F);
    if (!in.read.dense.defined()) {
      wide<update>(state, token, in.K, in.V);
      continue;
    }
    token.write = in.write.at(i, h);
    wide<read_state>(state, in.read.at(i, h), erased, in.K, in.V);
    wide<update_erasing>(state, token, in.K, in.V);
  }
}

void advance_channels(
    const Inputs& in, float offset, int64_t b, int64_t begin, int64_t end, float* state, float* y) {
  for (int64_t t = 0; t < in.T; ++t) {
    const int64_t i = b * in.T + t;
    wide<update_channels>(state + begin * in.K,
                          {.step = in.step.at(i, begin),
                           .rate = in.rate.const_data_ptr<float>() + begin * in.K,
                           .value = in.value.at(i, begin),
                           .offset = offset,
                           .q = in.q.at(i, begin),
                           .k = in.k.at(i, begin),
                           .stride = in.q.heads == 1 ? 0 : in.K,
                           .y = y + i * in.H + begin},
                          end - begin, in.K);
  }
}

// Work worth a second thread: updating this much state takes about 5 us.
constexpr int64_t kGrainElements = 32768;

}  // namespace

bool decay_scan_step_takes(const ScanInputs& in, const Tensor& state) {
  const auto known = [](const Tensor& x) {
    return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
  };
  const bool factored = in.factored_decay.has_value();
  const auto shared = [](const Tensor& x) { return x.size(2) > 1 && x.stride(2) == 0; };
  return state.is_cpu() && state.scalar_type() == at::kFloat && state.numel() > 0 &&
         in.q.size(1) > 0 && known(in.q) && known(in.k) && known(in.v) &&
         (!factored || (in.v.size(3) == 1 && !in.bonus && shared(in.q) == shared(in.k)));
}

Tensor decay_scan_step(const ScanInputs& given, const Tensor& from, const Tensor& to) {
  const Inputs in(given, from);
  Tensor y = at::empty({in.B, in.T, in.H, in.V}, from.options());
  const Tensor start = from.contiguous();
  const float* const old = start.const_data_ptr<float>();
  float* const state = to.mutable_data_ptr<float>();
  float* const out = y.mutable_data_ptr<float>();
  const int64_t elements = in.K * in.V;
  const int64_t grain = std::max<int64_t>(1, kGrainElements / elements);
  at::parallel_for(0, in.B * in.H, grain, [&](int64_t begin, int64_t end) {
    if (state != old)
      std::memcpy(state + begin * elements, old + begin * elements,
                  static_cast<size_t>((end - begin) * elements) * sizeof(float));
    if (!given.factored_decay) {
      for (int64_t i = begin; i < end; ++i)
        advance_head(in, i / in.H, i % in.H, state + i * elements, out);
      return;
    }
    const auto offset = static_cast<float>(given.factored_decay->offset);
    for (int64_t b = begin / in.H; b <= (end - 1) / in.H; ++b)
      advance_channels(in, offset, b, std::max(begin - b * in.H, int64_t{0}),
                       std::min(end - b * in.H, in.H), state + b * in.H * in.K, out);
  });
  return y.to(given.v.scalar_type());
}

}  // namespace stuffed::kernels
