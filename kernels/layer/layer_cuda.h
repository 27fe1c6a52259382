// The rest of a layer on the GPU: what the operations of src/ops take instead of chains of ATen
// operators, where `layer_cuda_takes` says so. Each op's header says what is computed; README.md,
// how.
#pragma once
#include <initializer_list>
#include <span>
#include <tuple>
#include <vector>

#include "kernels/layer/delta_rule.h"
#include "kernels/layer/layer_params.h"
#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

/// Whether the kernels read these activations: on a GPU this build has kernels for, all f32 or all
/// bf16, [B,T,C] or anything that is dense, channels in aligned groups of four, no gradient wanted.
bool layer_cuda_takes(std::initializer_list<Tensor> activations);

/// Whether a kernel reads these parameters (undefined: absent): dense f32 on a GPU, no gradient
/// wanted.
bool layer_cuda_takes_parameters(std::initializer_list<Tensor> parameters);

/// ops::short_conv: y [B,T,C] and the columns [B,C,W-1] to carry. 2 to 4 taps.
std::tuple<Tensor, Tensor> short_conv_cuda(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& columns, bool silu);

/// All of ops/norms.h; the fields are NormParams'.
struct NormTensors {
  Tensor x, gate = {}, skip = {};                   // activations; gate and skip may be undefined
  Tensor weight = {}, bias = {}, skip_weight = {};  // parameters; undefined: absent
  int64_t parts = 1;                                // of equal width, at most kWidestNorm
  bool centre = false, gate_first = false;
  double eps = 0;
};
Tensor norm_cuda(const NormTensors& in, at::ScalarType out);

/// One of `Map`: a, b activations, w [C]; b and w may be undefined where the map allows.
Tensor map_cuda(Map map, const Tensor& a, const Tensor& b, const Tensor& w);

/// Map::ShiftMix with the row before the first, before [B,D].
Tensor shift_mix_cuda(const Tensor& x,
                      const Tensor& before,
                      const Tensor& share,
                      const Tensor& shift);

/// All of RWKV-6's mixes: low [B,T,mixes,rank], factors [mixes,rank,C], of x's type, bf16.
bool shift_mixes_cuda_takes(const Tensor& x, const Tensor& low, const Tensor& factors);
std::vector<Tensor> shift_mixes_cuda(const Tensor& x,
                                     const Tensor& before,
                                     std::span<const Tensor> shares,
                                     const Tensor& low,
                                     const Tensor& factors);

/// Map::ForgetGate: {1 - forget in a's type, log(forget) in f32}.
std::tuple<Tensor, Tensor> forget_gate_cuda(const Tensor& a, const Tensor& low);

/// Map::StepGates: {dt, log_decay} in f32.
std::tuple<Tensor, Tensor> step_gates_cuda(
    const Tensor& raw, const Tensor& bias, const Tensor& a_log, double least, double most);

/// Both of ops/delta_rule.h, for heads of a multiple of four channels up to kWidestHead.
DeltaRuleGates delta_rule_gates_cuda(const DeltaRuleStreams& in,
                                     const DeltaRuleParameters& parameters);
Tensor delta_rule_output_cuda(const Tensor& y,
                              const Tensor& value,
                              const Tensor& strength,
                              const Tensor& gate,
                              const Tensor& weight,
                              const Tensor& bias,
                              double eps);

/// -log softmax(logits[:, :vocab])[targets]: [n] f32. logits [n,V], targets [n] int64 below
/// `vocab`.
bool nll_cuda_takes(const Tensor& logits);
Tensor nll_cuda(const Tensor& logits, int64_t vocab, const Tensor& targets);

}  // namespace stuffed::kernels
