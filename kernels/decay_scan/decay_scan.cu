// Which kernel takes a call, how T is cut into segments that run side by side, and how their states
// are joined.
#include <algorithm>

#include "kernels/decay_scan/decay_scan_hopper.cuh"

namespace stuffed::kernels {

namespace scan {

namespace {

enum PathName : int32_t {
  kNone = -1,
  kScalar,
  kVector,
  kTokens,
  kFactored,
  kScalarHopper,
  kVectorHopper,
  kTiledFactored,
  kWideHopper,
  kEraseHopper
};

// Up to so many, a block of 64 is mostly padding.
constexpr int64_t kFewTokens = 8;

bool is_hoppers(int32_t path) {
  return path == kScalarHopper || path == kVectorHopper || path == kWideHopper;
}

__host__ __device__ bool has_one_decay_per_head(int32_t path) {
  return path == kScalar || path == kScalarHopper;
}

Path path_of(const DecayScanParams& p, int32_t name) {
  switch (name) {
    case kScalar:
      return scalar_path(p);
    case kVector:
      return vector_path(p);
    case kFactored:
      return factored_path(p);
    case kScalarHopper:
      return scalar_hopper_path(p);
    case kVectorHopper:
      return vector_hopper_path(p);
    case kWideHopper:
      return wide_hopper_path(p);
    case kEraseHopper:
      return erase_hopper_path(p);
    case kTiledFactored:
      return tiled_factored_path(p);
    default:
      return token_path(p);
  }
}

/// Of those that make the decay (and the key) of a raw gate themselves.
int32_t choose_gated_path(const DecayScanParams& p) {
  if (!p.is_bf16 || p.read.data || p.tokens <= kFewTokens)
    return kNone;
  const int32_t name = vector_hopper_takes(p) ? kVectorHopper
                       : wide_hopper_takes(p) ? kWideHopper
                                              : kNone;
  return name != kNone && path_of(p, name).slots > 0 ? name : int32_t{kNone};
}

int32_t choose_path(const DecayScanParams& p) {
  if (p.gate.data)
    return choose_gated_path(p);
  if (p.step.data)
    return tiled_factored_takes(p) ? kTiledFactored : kFactored;
  if (p.is_bf16 && p.tokens > kFewTokens && erase_hopper_takes(p) &&
      path_of(p, kEraseHopper).slots > 0)
    return kEraseHopper;
  if (!p.is_bf16 || p.read.data || p.tokens <= kFewTokens)
    return kTokens;
  int32_t name = p.has_vector_decay || p.bonus.data ? kVector : kScalar;
  if (name == kScalar && scalar_hopper_takes(p))
    name = kScalarHopper;
  if (name == kVector && vector_hopper_takes(p))
    name = kVectorHopper;
  else if (name == kVector && wide_hopper_takes(p))
    name = kWideHopper;
  return path_of(p, name).slots > 0 ? name : int32_t{kTokens};
}

/// Blocks of segment 0, for each later segment's `each`: all other segments first sum up what they
/// will add, which costs this share of walking them, and meanwhile segment 0 is walked. With one
/// decay per head only as much is summed up as is not forgotten: the smaller a share, the longer the
/// segments.
double prefix_cost(const DecayScanParams& p, int32_t path, int64_t each) {
  if (path == kWideHopper)
    return p.gate.data ? 0.45 : 0.7;
  if (!has_one_decay_per_head(path))
    return 0.5;
  return path == kScalarHopper && each < 96 ? 0.35 : 0.15;
}

/// Segments side by side (all but one, as segment 0 runs while the others sum up) for the least
/// time, counted in blocks one after the other.
int32_t choose_segments(
    const DecayScanParams& p, int64_t ctas, int slots, int64_t blocks, int32_t path) {
  int32_t best = 1;
  double best_time = static_cast<double>((ctas + slots - 1) / slots * blocks);
  for (int32_t side = 2; side <= 64 && 4 * side <= blocks; ++side) {
    const double waves = static_cast<double>((ctas * side + slots - 1) / slots);
    const double prefix = prefix_cost(p, path, blocks / side);
    const double time = waves * (1 + prefix) * blocks / (side + prefix) + 2;
    if (time < 0.9 * best_time) {
      best = side + 1;
      best_time = time;
    }
  }
  return best;
}

/// Turns what each segment adds into the state it leaves, in place: thread per state element, first
/// to last.
__global__ void combine_kernel(DecayScanParams p, DecayScanPlan plan) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  const int64_t state = state_floats(p), i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= state)
    return;
  const int64_t rows = p.batch * p.heads * p.keys, row = i / p.columns;
  const float* decays = p.workspace + state * (plan.segments - 1);
  const int64_t at = has_one_decay_per_head(plan.path) ? row / p.keys * p.keys : row;
  float sum = p.workspace[i];
  for (int s = 1; s < plan.segments - 1; ++s) {
    sum = decay_state(sum, decay_change(decays[s * rows + at]), p.workspace[s * state + i]);
    p.workspace[s * state + i] = sum;
  }
}

}  // namespace

}  // namespace scan

extern "C" DecayScanPlan stuffed_decay_scan_plan(const DecayScanParams* params, int32_t segments) {
  const DecayScanParams& p = *params;
  DecayScanPlan plan;
  plan.path = scan::choose_path(p);
  if (plan.path == scan::kNone)
    return plan;
  const scan::Path path = scan::path_of(p, plan.path);
  const int64_t blocks = (p.tokens + scan::kBlock - 1) / scan::kBlock;
  const int64_t ctas = scan::ctas_of(p, path.columns_per_cta, path.heads_per_cta);
  if (segments <= 0)
    segments = path.slots > 0 ? scan::choose_segments(p, ctas, path.slots, blocks, plan.path) : 1;
  segments = static_cast<int32_t>(std::min<int64_t>(segments, blocks));
  if (segments <= 2 || p.read.data || plan.path == scan::kTiledFactored) {
    plan.first = blocks;
    return plan;
  }
  const double prefix = scan::prefix_cost(p, plan.path, blocks / (segments - 1));
  plan.each = std::max<int64_t>(1, static_cast<int64_t>(blocks / (segments - 1 + prefix)));
  plan.first = std::max<int64_t>(1, static_cast<int64_t>(plan.each * prefix));
  // What is left over goes to as many segments as it fills; the last one takes the rest.
  plan.each = (blocks - plan.first + segments - 2) / (segments - 1);
  plan.segments = static_cast<int32_t>(1 + (blocks - plan.first + plan.each - 1) / plan.each);
  if (plan.segments <= 2) {
    plan.segments = 1;
    plan.first = blocks;
  }
  return plan;
}

extern "C" int64_t stuffed_decay_scan_workspace(const DecayScanParams* params,
                                                const DecayScanPlan* plan) {
  if (plan->segments == 1)
    return 0;
  const int64_t rows = params->batch * params->heads * params->keys;
  return rows * (params->columns + 1) * (plan->segments - 1);
}

extern "C" int32_t stuffed_decay_scan_launch(const DecayScanParams* params,
                                             const DecayScanPlan* plan,
                                             void* stream_) {
  const auto stream = static_cast<cudaStream_t>(stream_);
  if (plan->path == scan::kNone)
    return cudaErrorInvalidValue;
  const scan::Path path = scan::path_of(*params, plan->path);
  if (plan->segments == 1)
    return path.launch(*params, *plan, 0, 1, stream);
  if (const cudaError_t error = path.launch(*params, *plan, 0, plan->segments - 1, stream);
      error != cudaSuccess)
    return error;
  constexpr int kThreads = 256;
  const int64_t ctas = (scan::state_floats(*params) + kThreads - 1) / kThreads;
  const bool overlaps = scan::is_hoppers(plan->path);
  if (const cudaError_t error = scan::launch_overlapping(
          scan::combine_kernel, {ctas, kThreads, 0, stream}, overlaps, *params, *plan);
      error != cudaSuccess)
    return error;
  return path.launch(*params, *plan, 1, plan->segments - 1, stream);
}

}  // namespace stuffed::kernels
