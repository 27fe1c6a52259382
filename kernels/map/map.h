// What is done to every channel by itself: gates, activations, and the token shift's mix with the
// row before. The contract, and the programs that compute it; `Map` says what each gives.
//
// Shapes  a, b [...,C], with StepGates and ShiftMix [B,T,C]; before [B,C]; w, w2 [C]
// Types   a, b and before of one type, bf16 or f32; w, w2 f32; y of a's type or, as `Map` says, f32;
//         log_decay f32, nats, <= 0; computed in f32 (f64 in the reference), rounded once
#pragma once
#include <vector>

#include "kernels/map/map_params.h"
#include "stuffed/core/tensor.h"

namespace stuffed::kernels {

struct MapInputs {
  Map map = Map::SiluProduct;
  Tensor a, b = {}, w = {}, w2 = {};  // what the map does not take is undefined
  Tensor before = {};                 // ShiftMix: the row before the first
  double least = 0, most = 0;         // StepGates
  /// ShiftMix: what shift_difference() gives, where it is known already.
  Tensor difference = {};

  /// Calls f(name, tensor) for each tensor that is read, and may be undefined.
  template <class Inputs, class F>
  static void visit(Inputs& in, const F& f) {
    f("a", in.a), f("b", in.b), f("w", in.w), f("w2", in.w2), f("before", in.before);
  }
};

struct MapResult {
  Tensor y;               // a's shape
  Tensor log_decay = {};  // of ForgetGate and StepGates

  std::vector<Tensor> tensors() const {
    return log_decay.defined() ? std::vector{y, log_decay} : std::vector{y};
  }
};

const char* map_name(Map map);

/// Whether y is f32 whatever a's type is.
bool gives_f32(Map map);

/// a[t-1] - a[t] in f32, [B,T,C]; a[-1] is `before`. ATen's ShiftMix multiplies it, several times
/// over in a layer.
Tensor shift_difference(const Tensor& a, const Tensor& before);

// The programs. None checks its arguments or chooses another: src/ops does. Each `takes` reads
// shapes, types and strides, but no data.

/// The specification: plain loops in f64, on the CPU. Slow.
bool map_cpu_takes(const MapInputs& in);
MapResult map_cpu(const MapInputs& in);

/// StepGates of a few tokens on the CPU, where one loop is sooner done than ATen's operators are
/// called. No gradient.
bool map_fast_takes(const MapInputs& in);
MapResult map_fast(const MapInputs& in);

/// ATen's operators: any device, differentiable. Without a gradient, the number of threads changes
/// no bit of them.
bool map_aten_takes(const MapInputs& in);
MapResult map_aten(const MapInputs& in);

/// Our kernel: channels in groups of kLayerChannels; neither Silu nor Sigmoid. No gradient.
bool map_cuda_takes(const MapInputs& in);
MapResult map_cuda(const MapInputs& in);

}  // namespace stuffed::kernels
