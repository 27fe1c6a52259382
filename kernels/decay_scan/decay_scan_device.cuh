// The pieces all decay_scan kernels are built from: tensor-core products, asynchronous copies,
// exponentials, and the mapping from CTAs to (sequence, head, columns, segment).
#pragma once
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/common/tensor_cores.cuh"
#include "kernels/decay_scan/decay_scan_params.h"

namespace stuffed::kernels::scan {

using kernels::pack;
using kernels::unpack;

constexpr int kBlock = 64;  // tokens handled at once; segments begin at multiples of it
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
// 2^-160 is 0 in f32, so a stronger decay changes nothing, while -inf would make inf - inf and
// -8192 would cost the weak decays beside it their low bits. NaN passes.
constexpr float kFloorLog2 = -160.f;

__device__ inline float to_log2(float nats) {
  const float x = nats * kLog2E;
  return x < kFloorLog2 ? kFloorLog2 : x;
}

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// What a decay 2^x does to a state, in one number. Near x = 0 the factor itself has too few bits
/// in f32 (an error of 1e-7 per block is 1 % after 10M tokens), so it is the change, 2^x - 1,
/// negative; a strong decay is the factor, positive: 2^x - 1 would be -1 for every x below -25 and
/// lose what is left of a large state.
__device__ inline float decay_change(float log2_decay) {
  return log2_decay > -1.f ? -fabsf(expm1f(log2_decay * kLn2)) : exp2_fast(log2_decay);
}

/// state * 2^x + fresh, `change` being decay_change(x).
__device__ inline float decay_state(float state, float change, float fresh) {
#ifdef STUFFED_BREAK_SCAN  // for tests that must fail
  fresh *= 1.01f;
#endif
  return fmaf(state, change, __float_as_int(change) < 0 ? state : 0.f) + fresh;
}

/// Four consecutive numbers, 16-byte aligned.
__device__ inline void load_four(float (&x)[4], const float* from) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
}

/// A bf16 tile in shared memory whose row pitch (in elements) is 8 modulo 64, so that eight rows of
/// 16 bytes fall into different banks.
template <int kPitch>
struct Tile {
  static_assert(kPitch % 64 == 8, "ldmatrix would meet bank conflicts");
  uint32_t address;  // in shared memory

  __device__ explicit Tile(const __nv_bfloat16* data) : address(shared_address(data)) {}
  __device__ uint32_t at(int row, int column) const {
    return address + 2 * (row * kPitch + column);
  }

  /// Rows [row, row+16) as the a operand, reduction over columns [column, column+16).
  __device__ void a_rows(uint32_t (&r)[4], int row, int column, int lane) const {
    load_matrices(r, at(lane & 15, (lane >> 4) * 8) + at(row, column) - address);
  }
  /// The transpose of [row, row+16) x [column, column+16) as the a operand: reduction over rows.
  __device__ void a_columns(uint32_t (&r)[4], int row, int column, int lane) const {
    load_matrices_transposed(
        r, at((lane & 7) + (lane >> 4) * 8, (lane >> 3 & 1) * 8) + at(row, column) - address);
  }
  /// Rows [row, row+16) as two b operands (r0,r1 and r2,r3) of 8 columns each, where a row of the
  /// tile is a column of b: reduction over columns [column, column+16).
  __device__ void b_rows(uint32_t (&r)[4], int row, int column, int lane) const {
    load_matrices(
        r, at((lane & 7) + (lane >> 4) * 8, (lane >> 3 & 1) * 8) + at(row, column) - address);
  }
  /// Columns [column, column+16) as two b operands of 8 columns each: reduction over rows
  /// [row, row+16).
  __device__ void b_columns(uint32_t (&r)[4], int row, int column, int lane) const {
    load_matrices_transposed(r, at(lane & 15, (lane >> 4) * 8) + at(row, column) - address);
  }
};

/// The same value, unknown to the compiler: what depends on it is computed where it is used instead
/// of being kept in registers around a loop.
__device__ inline int recomputed(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

__device__ inline void copy_async_16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

__device__ inline void copy_async_4(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}

__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// One (sequence, head)'s view of a tensor, as a kernel walks over it.
template <class T>
struct Rows {
  const T* data;
  int64_t stride, channel_stride;
  int channels;    // those that exist; the tile's others are filled with 0
  bool by_vector;  // 16-byte copies are legal

  Rows() = default;
  __device__ Rows(const View& view, int64_t b, int64_t h, int first_channel, int channels_)
      : data(static_cast<const T*>(view.data) + b * view.b + h * view.h + first_channel * view.c),
        stride(view.t),
        channel_stride(view.c),
        channels(channels_) {
    constexpr int kVector = 16 / sizeof(T);
    by_vector = channel_stride == 1 && channels % kVector == 0 && stride % kVector == 0 &&
                reinterpret_cast<uintptr_t>(data) % 16 == 0;
  }

  /// Queues rows [begin, begin+kBlock) into `to`; rows from `end` on and missing channels become 0.
  template <int kWidth, int kPitch, int kThreads>
  __device__ void load(T* to, int64_t begin, int64_t end) const {
    constexpr int kVector = 16 / sizeof(T), kPerRow = kWidth / kVector, kRows = kThreads / kPerRow;
    static_assert(kThreads % kPerRow == 0 && kBlock % kRows == 0,
                  "a thread copies whole rows' parts");
    if (by_vector) {
      const int thread = recomputed(threadIdx.x);
      const int first = thread / kPerRow, c = thread % kPerRow * kVector;
      const int rows = c < channels ? static_cast<int>(min(end - begin, int64_t{kBlock})) : 0;
      const T* from = data + (begin + first) * stride + c;  // advanced, so that no product is kept
#pragma unroll
      for (int row = 0; row < kBlock; row += kRows) {
        const bool valid = first + row < rows;
        copy_async_16(to + (first + row) * kPitch + c, valid ? from : data, valid);
        from += kRows * stride;
      }
    } else {
      for (int i = threadIdx.x; i < kBlock * kWidth; i += kThreads) {
        const int row = i / kWidth, c = i % kWidth;
        const bool valid = begin + row < end && c < channels;
        to[row * kPitch + c] = valid ? data[(begin + row) * stride + c * channel_stride] : T(0.f);
      }
    }
  }
};

/// The part of the work one CTA does: tokens [begin, end) of one head, `first_column` on.
struct Task {
  int64_t b, h, begin, end;
  int first_column, segment;
  bool is_first, is_last;  // segment of the sequence
  int64_t y;               // offset of the head's first output in y
};

/// CTAs are numbered with the head fastest, so that heads that share q and k run side by side. A
/// CTA may take several heads, of which `h` is the first.
__device__ inline Task task_of(const DecayScanParams& p,
                               const DecayScanPlan& plan,
                               int first_segment,
                               int columns_per_cta,
                               int heads_per_cta = 1) {
  const int64_t parts = (p.columns + columns_per_cta - 1) / columns_per_cta;
  int64_t i = blockIdx.x;
  Task task;
  task.first_column = static_cast<int>(i % parts) * columns_per_cta;
  i /= parts;
  const int64_t head_groups = (p.heads + heads_per_cta - 1) / heads_per_cta;
  task.h = i % head_groups * heads_per_cta;
  i /= head_groups;
  task.b = i % p.batch;
  task.segment = first_segment + static_cast<int>(i / p.batch);
  task.is_first = task.segment == 0;
  task.is_last = task.segment == plan.segments - 1;
  const int64_t begin = task.is_first ? 0 : plan.first + (task.segment - 1) * plan.each;
  const int64_t end = begin + (task.is_first ? plan.first : plan.each);
  task.begin = begin * kBlock;
  task.end = task.is_last ? p.tokens : end * kBlock;
  task.y = (task.b * p.tokens * p.heads + task.h) * p.columns;
  return task;
}

/// Writes tiles of 8 columns of y, given as accumulators of rows t and t + 8. Neighbouring lanes
/// swap halves so that each stores 8 bytes.
template <int kTiles>
__device__ void store_output(const DecayScanParams& p,
                             const Task& task,
                             const float (&y)[kTiles][4],
                             int64_t t,
                             int first_column,
                             int lane) {
  const bool odd = lane & 1;
  const int64_t stride = p.heads * p.columns;
  __nv_bfloat16* first = static_cast<__nv_bfloat16*>(p.y) + task.y + t * stride;
#pragma unroll
  for (int n = 0; n < kTiles; n += 2)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t mine[2] = {pack(y[n][2 * half], y[n][2 * half + 1]),
                                pack(y[n + 1][2 * half], y[n + 1][2 * half + 1])};
      const uint32_t theirs = __shfl_xor_sync(~0u, odd ? mine[0] : mine[1], 1);
      const uint2 four = odd ? make_uint2(theirs, mine[1]) : make_uint2(mine[0], theirs);
      const int column = first_column + 8 * (n + odd) + 4 * (lane >> 1 & 1);
      if (t + 8 * half >= task.end || column >= p.columns)
        continue;
      __nv_bfloat16* to = first + 8 * half * stride + column;
      if (p.columns % 4 == 0)
        *reinterpret_cast<uint2*>(to) = four;
      else
        for (int i = 0; i < 4 && column + i < p.columns; ++i)
          to[i] = reinterpret_cast<const __nv_bfloat16*>(&four)[i];
    }
}

/// Where a segment's start state comes from and where its end goes. A segment that writes no output
/// starts from nothing, and its end is what it adds; the combine kernel turns those into start
/// states in place.
struct Ends {
  const float* start;  // [K,V] or null
  float* end;          // [K,V] or null: in the second launch the next segment reads its start there
  float* decay;        // [K] or [1] log2 of the segment's whole decay; null if nobody needs it
};

/// What a CTA's threads all know, kept out of their registers.
struct Common {
  Task task;
  Ends ends;
  Rows<__nv_bfloat16> q, k, v;
  Rows<float> log_decay;

  /// By all threads; ends with a barrier.
  __device__ void fill(const DecayScanParams& p, const Task& of, const Ends& to, int columns) {
    if (threadIdx.x == 0) {
      task = of;
      ends = to;
      q = {p.q, of.b, of.h, 0, p.keys};
      k = {p.k, of.b, of.h, 0, p.keys};
      v = {p.v, of.b, of.h, of.first_column, min(p.columns - of.first_column, columns)};
      log_decay = {p.log_decay, of.b, of.h, 0, p.keys};
    }
    __syncthreads();
  }
};

__host__ __device__ inline int64_t state_floats(const DecayScanParams& p) {
  return p.batch * p.heads * p.keys * p.columns;
}

__device__ inline Ends ends_of(const DecayScanParams& p,
                               const DecayScanPlan& plan,
                               const Task& task,
                               bool writes_output,
                               int first_segment) {
  const int64_t state = state_floats(p), head = task.b * p.heads + task.h;
  const int64_t at = head * p.keys * p.columns;
  float* decays = p.workspace + state * (plan.segments - 1);
  Ends ends;
  ends.start = task.is_first ? p.state_in + at : p.workspace + (task.segment - 1) * state + at;
  if (!writes_output)
    ends.start = nullptr;
  ends.end = task.is_last         ? p.state_out + at
             : first_segment == 0 ? p.workspace + task.segment * state + at
                                  : nullptr;
  ends.decay =
      writes_output ? nullptr : decays + (task.segment * p.batch * p.heads + head) * p.keys;
  return ends;
}

/// Of a raw gate's channel.
__device__ inline float base_of(const DecayScanParams& p, int64_t h, int c) {
  const auto* const base = static_cast<const float*>(p.base.data);
  return base ? base[h * p.base.h + c * p.base.c] : 0.f;
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess)
    return 0;
  return value;
}

/// Bytes of shared memory one CTA may ask for.
inline int shared_memory_limit() {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

template <class Kernel>
cudaError_t allow_shared_memory(Kernel* kernel, int bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

/// CTAs of `kernel` that the whole device holds at once.
template <class Kernel>
int resident_ctas(Kernel* kernel, int threads, int bytes) {
  int per_sm = 0;
  if (bytes > shared_memory_limit() || allow_shared_memory(kernel, bytes) != cudaSuccess ||
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, bytes) != cudaSuccess)
    return 0;
  return per_sm * device_attribute(cudaDevAttrMultiProcessorCount);
}

using Launch = cudaError_t (*)(
    const DecayScanParams&, const DecayScanPlan&, int first_segment, int count, cudaStream_t);

/// How a path is launched: `kernel` runs segments [first_segment, first_segment+count).
struct Path {
  Launch launch;
  int columns_per_cta;
  int slots;  // CTAs that fit on the device at once; 0 if it lacks the shared memory
  int heads_per_cta = 1;
};

/// CTAs for one segment of every sequence.
inline int64_t ctas_of(const DecayScanParams& p, int columns_per_cta, int heads_per_cta) {
  return (p.columns + columns_per_cta - 1) / columns_per_cta *
         ((p.heads + heads_per_cta - 1) / heads_per_cta) * p.batch;
}

Path scalar_path(const DecayScanParams& p);         // bf16, one decay per head, no bonus; K <= 128
Path scalar_hopper_path(const DecayScanParams& p);  // the same where scalar_hopper_takes() it
bool scalar_hopper_takes(const DecayScanParams& p);
Path vector_hopper_path(
    const DecayScanParams& p);  // bf16 with a bonus where vector_hopper_takes() it
bool vector_hopper_takes(const DecayScanParams& p);
Path tiled_factored_path(
    const DecayScanParams& p);  // where tiled_factored_takes() it; T is not cut
bool tiled_factored_takes(const DecayScanParams& p);
Path vector_path(const DecayScanParams& p);    // bf16, K <= 128
Path token_path(const DecayScanParams& p);     // any input but a factored decay; K <= 128
Path factored_path(const DecayScanParams& p);  // a factored decay; K <= 16, V = 1

}  // namespace stuffed::kernels::scan
