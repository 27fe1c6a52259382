// What Hopper's kernels are built from: the copy engine (tensor maps, bulk copies, mbarriers), warp
// group products (wgmma) and tiles of 128-byte rows in the layout both of them understand.
//
// The asm is sm_90a's. Kernels that use it have empty bodies elsewhere (STUFFED_ON_HOPPER), and
// on_hopper() keeps them from being launched there.
#pragma once
#include <cuda.h>

#include "kernels/decay_scan/decay_scan_device.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)  // the host's pass only parses
#define STUFFED_ON_HOPPER 1
#endif

namespace stuffed::kernels::scan {

// ---- barriers in shared memory ----

__device__ __forceinline__ void init_barrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}

/// After the last init_barrier, by the thread that did them, before the block's barrier.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/// Arrives, and lets the phase end only when so many bytes were copied as well.
__device__ __forceinline__ void arrive_expecting(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

// A warp arrives once, by one lane. compute-sanitizer's racecheck takes a barrier to order the
// accesses of the lanes that arrive, not of those that lane has synchronised with, so a build for
// it lets all of them arrive (5 % slower).
#ifdef STUFFED_RACECHECK
constexpr int kArrivals = 32;
#else
constexpr int kArrivals = 1;
#endif

/// What all lanes did before is done for whoever waits; counts as kArrivals arrivals.
__device__ __forceinline__ void arrive_as_warp(uint64_t* barrier, int lane) {
  __syncwarp();
  if (kArrivals > 1 || lane == 0)
    arrive(barrier);
}

/// Waits for the end of the phase of this parity; the phase before the first counts as parity 1.
__device__ __forceinline__ void wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@done bra end;\nbra again;\nend:\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// A place in a ring of kStages buffers, and the parity of its barriers' phase.
template <int kStages>
struct Ring {
  int stage = 0, parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == kStages)
      stage = 0, parity ^= 1;
  }
};

// ---- the copy engine ----

/// What ordinary stores wrote to shared memory becomes visible to the copy engine and to wgmma. By
/// every thread that wrote, before the barrier that the reader waits at.
__device__ __forceinline__ void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Where a box begins: channel, head, token, sequence.
struct Corner {
  int channel, head, token, sequence;
};

/// Where a task's first block begins in a view's map, in which an axis of stride 0 has size 1.
__device__ __forceinline__ Corner corner(const View& view, const Task& task, int channel) {
  return {channel, view.h ? static_cast<int>(task.h) : 0, static_cast<int>(task.begin),
          view.b ? static_cast<int>(task.b) : 0};
}

/// Of 64 tokens; the last may have fewer.
__device__ __forceinline__ int blocks_of(const Task& task) {
  return static_cast<int>((task.end - task.begin + kBlock - 1) / kBlock);
}

__device__ __forceinline__ void load_box(void* to,
                                         const CUtensorMap& from,
                                         uint64_t* barrier,
                                         const Corner& at) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)),
      "l"(&from), "r"(shared_address(barrier)), "r"(at.channel), "r"(at.head), "r"(at.token),
      "r"(at.sequence)
      : "memory");
}

/// Queues a store; what lies beyond the tensor is left out.
__device__ __forceinline__ void store_box(const CUtensorMap& to,
                                          const void* from,
                                          const Corner& at) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];\n"
      "cp.async.bulk.commit_group;" ::"l"(&to),
      "r"(shared_address(from)), "r"(at.channel), "r"(at.head), "r"(at.token), "r"(at.sequence)
      : "memory");
}

/// By the thread that queued them: its stores have left shared memory.
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

__device__ __forceinline__ void wait_stores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// ---- overlapping launches ----

/// Waits until the kernels queued before, which this one was allowed to overlap, are done.
__device__ __forceinline__ void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel begin, as far as there is room, if it was queued to overlap this one.
__device__ __forceinline__ void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// ---- tiles of 64 bf16 a row: 16-byte parts of a row are permuted by the row's number ----

constexpr int kTileRow = 128;  // bytes
constexpr int kTile = kBlock * kTileRow;

/// Address of 16-byte part `part` of a row, in a tile that begins at a multiple of 1024 bytes.
__device__ __forceinline__ uint32_t in_tile(uint32_t tile, int row, int part) {
  return tile + row * kTileRow + ((part ^ (row & 7)) << 4);
}

/// The 16 rows of warp `warp`, accumulators of m64n64 or the same as eight of 8 columns, as bf16
/// into a tile.
template <class Element>
__device__ __forceinline__ void store_elements(Element d, uint32_t tile, int warp, int lane) {
  const int row = 16 * warp + (lane & 15);
#pragma unroll
  for (int n = 0; n < 8; n += 2)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     in_tile(tile, row, n + (lane >> 4))),
                 "r"(pack(d(n, 0), d(n, 1))), "r"(pack(d(n, 2), d(n, 3))),
                 "r"(pack(d(n + 1, 0), d(n + 1, 1))), "r"(pack(d(n + 1, 2), d(n + 1, 3)))
                 : "memory");
}

__device__ __forceinline__ void store_tile(const float (&d)[32],
                                           uint32_t tile,
                                           int warp,
                                           int lane) {
  store_elements([&](int n, int e) { return d[4 * n + e]; }, tile, warp, lane);
}

__device__ __forceinline__ void store_tile(const float (&d)[8][4],
                                           uint32_t tile,
                                           int warp,
                                           int lane) {
  store_elements([&](int n, int e) { return d[n][e]; }, tile, warp, lane);
}

// ---- two channels at a time ----

__device__ __forceinline__ uint32_t load_word(uint32_t address) {
  uint32_t x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
  return x;
}

__device__ __forceinline__ void store_word(uint32_t address, uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

__device__ __forceinline__ float2 load_two(uint32_t address) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
  return x;
}

__device__ __forceinline__ float2 operator*(float2 a, float2 b) {
  return {a.x * b.x, a.y * b.y};
}

__device__ __forceinline__ uint32_t pack(float2 x) {
  return pack(x.x, x.y);
}

// ---- products of a warp group ----

/// Of a tile as b operand. A step of 16 along the reduction is +2 where rows are b's columns, and
/// +128 where they are b's rows.
__device__ __forceinline__ uint64_t tile_descriptor(const void* tile) {
  constexpr uint64_t kEightRows = 8 * kTileRow / 16, kSwizzle128 = uint64_t{1} << 62;
  return (shared_address(tile) & 0x3FFFF) >> 4 | uint64_t{1} << 16 | kEightRows << 32 | kSwizzle128;
}

constexpr int kRowsAreColumns = 0, kRowsAreRows = 1;  // of b

/// d [64,64] (+)= a [64,16] b [16,64]; a in registers, b of a tile. Nothing may touch d between
/// this and the wait for its group: pin() it there.
template <int kMajor>
__device__ __forceinline__ void wgmma(float (&d)[32],
                                      const uint32_t (&a)[4],
                                      uint64_t b,
                                      bool adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
      "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
      "%27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{adds}), "n"(kMajor));
}

constexpr int kColumnsAreRows = 1;  // of a: the tile's columns, so that its rows are reduced

/// The same with a of a tile: a step of 16 along the reduction is +128 where its columns are a's
/// rows, and +2 where its rows are.
template <int kMajorA, int kMajorB>
__device__ __forceinline__ void wgmma_tiles(float (&d)[32], uint64_t a, uint64_t b, bool adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
      "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
      "%27, %28, %29, %30, %31}, %32, %33, p, 1, 1, %35, %36;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b), "r"(int{adds}), "n"(kMajorA), "n"(kMajorB));
}

/// Before products whose registers were written by other instructions.
__device__ __forceinline__ void fence_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Keeps the compiler from moving arithmetic on accumulators above the wait for them.
template <int kN>
__device__ __forceinline__ void pin(float (&d)[kN]) {
#pragma unroll
  for (int i = 0; i < kN; ++i)
    asm volatile("" : "+f"(d[i])::"memory");
}

/// Of the 128 threads of a warp group; `index` 0 is the block's own.
__device__ __forceinline__ void group_barrier(int index) {
  asm volatile("bar.sync %0, 128;" ::"r"(index) : "memory");
}

// ---- on the host ----

/// Whether the current device runs sm_90a's instructions and its driver makes tensor maps.
bool on_hopper();

/// What one copy moves: rows of 128 bytes, one per token, of one head.
struct Box {
  int element = sizeof(__nv_bfloat16);  // bytes; 4 for f32
  int tokens = kBlock;
};

/// Whether the copy engine can read this view: 16-byte aligned, every token stored apart.
bool takes_boxes(const View& view, int64_t tokens, const Box& box = {});

/// A view [B,T,H,C] in boxes. An axis of stride 0 counts as of size 1. What lies beyond an axis
/// reads as 0.
cudaError_t make_tensor_map(CUtensorMap& map,
                            const View& view,
                            const DecayScanParams& p,
                            int channels,
                            const Box& box = {});

/// How a kernel is launched.
struct Grid {
  int64_t ctas;
  int threads, bytes;
  cudaStream_t stream;
};

/// Queues a kernel, which, if it `overlaps`, may begin before the one queued before it is done, and
/// then has to call wait_for_earlier_kernels().
template <class... Parameters>
cudaError_t launch_overlapping(void (*kernel)(Parameters...),
                               const Grid& grid,
                               bool overlaps,
                               const Parameters&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.ctas));
  config.blockDim = dim3(grid.threads);
  config.dynamicSmemBytes = grid.bytes;
  config.stream = grid.stream;
  config.attrs = &attribute;
  config.numAttrs = overlaps ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

/// y, dense.
View output_view(const DecayScanParams& p);

Path wide_hopper_path(const DecayScanParams& p);  // bf16, K = V = 128, where it takes them
bool wide_hopper_takes(const DecayScanParams& p);
Path erase_hopper_path(const DecayScanParams& p);  // bf16 with an erase term, K = V = 64
bool erase_hopper_takes(const DecayScanParams& p);

}  // namespace stuffed::kernels::scan
