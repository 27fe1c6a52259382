// RWKV-6's five token-shift mixes with their low-rank shares, in one pass: a row is read once, and
// the shares of a token, products of a few dozen numbers, never leave registers.
//
// A CTA takes kColumns channels of a stretch of tokens, a warp 16 tokens at a time. A thread's
// accumulators of four products of eight columns are, by the order in which the factor lies in
// shared memory, eight neighbouring channels of two tokens: 16 bytes of a row.
#include "kernels/common/channels.cuh"
#include "kernels/common/tensor_cores.cuh"
#include "kernels/shift_mixes/shift_mixes_params.h"

namespace stuffed::kernels::layer {

namespace {

constexpr int kMixes = kShiftMixes;
constexpr int kColumns = kShiftMixColumns, kPitch = kColumns + 8;  // eight rows: different banks
constexpr int kRows = 16, kWarps = 4, kThreads = 32 * kWarps;
constexpr int kStretch = 256;  // tokens of a CTA
constexpr int kOwn = 8;        // neighbouring channels of a thread, of each 32

template <int kRank>
struct Shared {
  __nv_bfloat16 factor[kMixes][kRank][kPitch];
  float share[kMixes][kColumns];
};

/// Where channel c of 32 lies: product j of eight columns gives thread q of four its channels
/// 8q + 2j and the next.
__device__ inline int place_of(int c) {
  return (c & ~31) + (c >> 1 & 3) * 8 + (c >> 3 & 3) * 2 + (c & 1);
}

template <int kRank>
__device__ inline void load_factors(Shared<kRank>& shared, const ShiftMixesParams& p, int64_t c) {
  constexpr int kPairs = kColumns / 2;
  const auto* const from = static_cast<const __nv_bfloat16*>(p.factor);
  for (int i = threadIdx.x; i < kMixes * kRank * kPairs; i += kThreads) {
    const int row = i / kPairs, column = i % kPairs * 2;
    *reinterpret_cast<uint32_t*>(&shared.factor[row / kRank][row % kRank][place_of(column)]) =
        *reinterpret_cast<const uint32_t*>(from + row * p.channels + c + column);
  }
  for (int i = threadIdx.x; i < kMixes * kColumns; i += kThreads)
    shared.share[i / kColumns][i % kColumns] = p.share[i / kColumns][c + i % kColumns];
}

/// The warp's rows of `low` as a operands: row t (or zeros) of mix m, columns 16 `step` on.
template <int kSteps>
__device__ inline void load_low(uint32_t (&a)[kMixes][kSteps][4],
                                const ShiftMixesParams& p,
                                int64_t row) {
  const int lane = threadIdx.x % 32;
  const int64_t rows = p.batch * p.tokens;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t r = row + lane / 4 + 8 * half;
    const auto* const from =
        static_cast<const __nv_bfloat16*>(p.low) + r * kMixes * kSteps * 16 + 2 * (lane % 4);
#pragma unroll
    for (int m = 0; m < kMixes; ++m)
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int k = 0; k < 2; ++k)
          a[m][step][half + 2 * k] =
              r < rows ? *reinterpret_cast<const uint32_t*>(from + (m * kSteps + step) * 16 + 8 * k)
                       : 0;
  }
}

struct Eight {
  float x[kOwn];
};

__device__ inline Eight load_eight(const void* from) {
  const uint4 words = *static_cast<const uint4*>(from);
  const uint32_t word[] = {words.x, words.y, words.z, words.w};
  Eight out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack(word[i]);
    out.x[2 * i] = pair.x, out.x[2 * i + 1] = pair.y;
  }
  return out;
}

__device__ inline void store_eight(void* to, const Eight& out) {
  *static_cast<uint4*>(to) = make_uint4(pack(out.x[0], out.x[1]), pack(out.x[2], out.x[3]),
                                        pack(out.x[4], out.x[5]), pack(out.x[6], out.x[7]));
}

/// A row's own channels, from c on, and those of the row before it.
__device__ inline void load_row(
    Eight& now, Eight& delta, const ShiftMixesParams& p, int64_t row, int64_t c) {
  const int64_t b = row / p.tokens, t = row % p.tokens;
  now = load_eight(at<__nv_bfloat16>(p.x, b, t, c));
  delta = load_eight(t > 0 ? at<__nv_bfloat16>(p.x, b, t - 1, c)
                           : at<__nv_bfloat16>(p.before, b, 0, c));
#pragma unroll
  for (int i = 0; i < kOwn; ++i)
    delta.x[i] -= now.x[i];
}

template <int kSteps>
__global__ void __launch_bounds__(kThreads)
    shift_mixes_kernel(const __grid_constant__ ShiftMixesParams p) {
  constexpr int kRank = 16 * kSteps;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<Shared<kRank>*>(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t tiles = p.channels / kColumns, rows = p.batch * p.tokens;
  const int64_t columns = blockIdx.x % tiles * kColumns;
  load_factors<kRank>(shared, p, columns);
  __syncthreads();
  const int64_t begin = blockIdx.x / tiles * kStretch;
  const int64_t end = begin + kStretch < rows ? begin + kStretch : rows;
  for (int64_t first = begin + kRows * warp; first < end; first += kRows * kWarps) {
    uint32_t low[kMixes][kSteps][4];
    load_low<kSteps>(low, p, first);
#pragma unroll 1
    for (int group = 0; group < kColumns; group += 32) {
      const int own = group + kOwn * (lane % 4);  // the thread's first channel of the CTA's
      Eight now[2], delta[2];
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (const int64_t row = first + lane / 4 + 8 * half; row < rows)
          load_row(now[half], delta[half], p, row, columns + own);
#pragma unroll
      for (int m = 0; m < kMixes; ++m) {
        float shift[4][4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step)
#pragma unroll
          for (int two = 0; two < 2; ++two) {
            uint32_t b[4];
            load_matrices_transposed(
                b, shared_address(&shared.factor[m][16 * step + (lane & 15)]
                                                [group + 16 * two + (lane >> 4) * 8]));
            mma(shift[2 * two], low[m][step], b[0], b[1]);
            mma(shift[2 * two + 1], low[m][step], b[2], b[3]);
          }
        float share[kOwn];
#pragma unroll
        for (int i = 0; i < kOwn; i += kGroup)
          load(*reinterpret_cast<float(*)[kGroup]>(share + i), &shared.share[m][own + i]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t row = first + lane / 4 + 8 * half;
          Eight y;
#pragma unroll
          for (int i = 0; i < kOwn; ++i)
            y.x[i] = fmaf(delta[half].x[i], kExact * (share[i] + shift[i / 2][2 * half + i % 2]),
                          now[half].x[i]);
          if (row < rows)
            store_eight(static_cast<__nv_bfloat16*>(p.y[m]) + row * p.channels + columns + own, y);
        }
      }
    }
  }
}

template <int kSteps>
cudaError_t launch(const ShiftMixesParams& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<16 * kSteps>);
  const auto kernel = shift_mixes_kernel<kSteps>;
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
      error != cudaSuccess)
    return error;
  const int64_t rows = p.batch * p.tokens;
  const int64_t ctas = p.channels / kColumns * ((rows + kStretch - 1) / kStretch);
  kernel<<<ctas, kThreads, kBytes, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

}  // namespace stuffed::kernels::layer

extern "C" int32_t stuffed_shift_mixes(const stuffed::kernels::ShiftMixesParams* params,
                                       void* stream) {
  using stuffed::kernels::layer::launch;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (params->rank) {
    case 16:
      return launch<1>(*params, cuda_stream);
    case 32:
      return launch<2>(*params, cuda_stream);
    case 64:
      return launch<4>(*params, cuda_stream);
    default:
      return cudaErrorInvalidValue;
  }
}
