// What a layer does besides its matrix products and its recurrence, as the device code sees it:
// pointers, sizes and strides, without any Torch type.
#pragma once
#include <cstdint>

namespace stuffed::kernels {

/// Rows of channels: element [b,t,c] lies at data + b*B + t*T + c elements. Null if absent.
struct Rows {
  const void* data = nullptr;
  int64_t b = 0, t = 0;
};

struct ShortConvParams {
  int64_t batch = 0, tokens = 0, channels = 0;
  int32_t width = 0;    // taps, 2 to 4
  int32_t is_bf16 = 0;  // type of x, columns, y and next: bf16 or f32
  int32_t silu = 0;
  Rows x;
  const float* weight = nullptr;  // [C,W]
  const float* bias = nullptr;    // [C] or null
  const void* columns = nullptr;  // [B,C,W-1], the inputs before x, newest last
  void* y = nullptr;              // [B,T,C]
  void* next = nullptr;           // [B,C,W-1], the inputs before what follows x
};

/// y = act(normalise(x + skip * skip_weight)) over each of `parts` parts of a row.
struct NormParams {
  int64_t batch = 0, tokens = 0;
  int32_t parts = 1, width = 0;     // a row has parts * width channels
  int32_t is_bf16 = 0, y_bf16 = 0;  // type of x, gate and skip; of y
  int32_t centre = 0;               // 1: layer norm, 0: RMS norm
  int32_t gate_first = 0;           // silu(gate) multiplies before the norm, or after it
  Rows x, gate, skip;               // gate, skip: null if absent
  const float* weight = nullptr;    // [parts*width]; null: no norm at all
  const float* bias = nullptr;      // [parts*width] or null
  const float* skip_weight = nullptr;
  int32_t skip_width = 1;  // channels that share a skip weight
  float eps = 0;
  void* y = nullptr;  // [B,T,parts*width]
};

enum class Map : int32_t {
  SiluProduct,     // y = silu(a) b
  SigmoidProduct,  // y = sigmoid(a) b
  ReluSquare,      // y = relu(a)^2
  NegativeExp,     // y = -exp(a + w)                                            y f32
  Softplus,        // y = log(1 + exp(a + w))                                    y f32
  ForgetGate,      // y = (1-w) sigmoid(-a), log_decay = log(1-y), f32; w absent: 0
  StepGates,       // y = clamp(log(1 + exp(a + w)), least, most), log_decay = -y exp(w2)  both f32
  ShiftMix,        // y = a + (a[t-1] - a) (w + b); a[-1] is `before`; b may be absent
};

struct MapParams {
  Map map = Map::SiluProduct;
  int64_t batch = 0, tokens = 0, channels = 0;
  int32_t is_bf16 = 0;  // type of a, b, before and, unless said above, y
  Rows a, b, before;
  const float *w = nullptr, *w2 = nullptr;  // [C]
  float least = 0, most = 0;
  void* y = nullptr;           // [B,T,C]
  float* log_decay = nullptr;  // [B,T,C], of ForgetGate and StepGates
};

/// ops/delta_rule.h: the gates, or the output where y_out is given. What is absent is null.
struct DeltaRuleParams {
  int64_t batch = 0, tokens = 0, heads = 0;
  int32_t width = 0;    // channels of a head, at most kWidestHead
  int32_t is_bf16 = 0;  // type of all rows and of what is made of them
  Rows query, key, value, decay, rate, value_mix, first_value;
  const float *decay_base = nullptr, *rate_base = nullptr, *value_base = nullptr,
              *read_scale = nullptr, *rate_scale = nullptr, *bonus = nullptr;  // [heads*width]
  void *key_out = nullptr, *value_out = nullptr, *read_out = nullptr, *write_out = nullptr;
  float *log_decay_out = nullptr, *strength_out = nullptr;  // [B,T,heads*width], [B,T,heads]
  // The output: value and
  Rows y, gate;
  const float* strength = nullptr;                 // [B,T,heads]
  const float *weight = nullptr, *bias = nullptr;  // [heads*width]
  float eps = 0;
  void* y_out = nullptr;
};

constexpr int kShiftMixes = 5;         // RWKV-6's
constexpr int kShiftMixColumns = 128;  // channels come in multiples of it

/// y[m] = x + (x[t-1] - x) (share[m] + low[m] factor[m]), all rows bf16; x[-1] is `before`.
struct ShiftMixesParams {
  int64_t batch = 0, tokens = 0, channels = 0;
  int32_t rank = 0;                      // 16, 32 or 64
  Rows x, before;                        // 16-byte aligned
  const void* low = nullptr;             // [B,T,mixes,rank] bf16
  const void* factor = nullptr;          // [mixes,rank,C] bf16
  const float* share[kShiftMixes] = {};  // [C]
  void* y[kShiftMixes] = {};             // [B,T,C] bf16
};

/// nll[i] = log sum_c exp(logits[i,c]) - logits[i, target[i]], in f32.
struct NllParams {
  int64_t rows = 0, vocab = 0, stride = 0;  // stride: elements from row to row
  int32_t is_bf16 = 0;
  const void* logits = nullptr;
  const int64_t* targets = nullptr;
  float* nll = nullptr;
};

extern "C" {
// Each queues one kernel on a cudaStream_t and returns its cudaError_t. Channels come in groups of
// kLayerChannels with rows aligned to them (nll takes any).
int32_t stuffed_short_conv(const ShortConvParams* params, void* stream);
int32_t stuffed_norm(const NormParams* params, void* stream);
int32_t stuffed_map(const MapParams* params, void* stream);
int32_t stuffed_delta_rule(const DeltaRuleParams* params, void* stream);
int32_t stuffed_shift_mixes(const ShiftMixesParams* params, void* stream);
int32_t stuffed_nll(const NllParams* params, void* stream);
}

constexpr int kLayerChannels = 4;  // what a thread reads at a time: 8 bytes of bf16, 16 of f32
constexpr int kWidestHead = 128;   // of the delta rule: a warp, one group each
constexpr int kWidestNorm = 8192;  // channels a part may have: 256 threads, eight groups each

}  // namespace stuffed::kernels
