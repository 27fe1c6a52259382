// The chunked form with an erase term, K = V = 64 (RWKV-7), on Hopper.
#include "kernels/decay_scan/decay_scan_hopper.cuh"

namespace stuffed::kernels::scan {

namespace {

using bf16 = __nv_bfloat16;

constexpr int kQ = 64, kD = 64, kThreads = 128;

struct Smem {
  bf16 in[2][5][kQ * kD];  // q, k, v, read, write, 128-byte rows, swizzled; scaled in place. Later
                           // S^ and u (low) lie in `read`, u (high) in `q`.
  bf16 x[2][kQ * kD];      // sums of decays; scratch of the inverse; R, high and low; y
  float4 s[8][kThreads];   // the state: a thread's accumulators
  uint64_t arrived;
  float em[kD], to_end[kD],
      change[kD];  // 2^mid, 2^(total - mid), decay of the chunk (sign set: to be added to one)
};

#ifdef STUFFED_ON_HOPPER

constexpr float kStrong = 32;  // bits that 32 tokens may decay by; RWKV-7's at most 28

__device__ __forceinline__ void split(float a, float b, uint32_t& hi, uint32_t& lo) {
  hi = pack(a, b);
  lo = pack(a - unpack(hi).x, b - unpack(hi).y);
}
__device__ __forceinline__ void stsm(uint32_t at, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(a),
               "r"(b), "r"(c), "r"(d)
               : "memory");
}
__device__ __forceinline__ uint32_t transpose(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
__device__ __forceinline__ void mma(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// d [16,64] += a [16,16] b [16,64]: eight sums that do not wait for each other.
__device__ __forceinline__ void mma_row(float (&d)[32],
                                        const uint32_t (&a)[4],
                                        const uint32_t (&b)[4][4]) {
#pragma unroll
  for (int n = 0; n < 4; ++n)
    mma(d + 8 * n, a, b[n][0], b[n][1]), mma(d + 8 * n + 4, a, b[n][2], b[n][3]);
}
/// d [16,16] += a [16,16] b [16,16], a and b in pairs.
__device__ __forceinline__ void mma_pairs(float* d,
                                          const uint32_t (&ah)[4],
                                          const uint32_t (&al)[4],
                                          const uint32_t (&bh)[4],
                                          const uint32_t (&bl)[4]) {
  float e[8] = {};
#pragma unroll
  for (int n = 0; n < 2; ++n)
    mma(e + 4 * n, al, bh[2 * n], bh[2 * n + 1]);
#pragma unroll
  for (int n = 0; n < 2; ++n)
    mma(d + 4 * n, ah, bh[2 * n], bh[2 * n + 1]);
#pragma unroll
  for (int n = 0; n < 2; ++n)
    mma(e + 4 * n, ah, bl[2 * n], bl[2 * n + 1]);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    d[i] += e[i];
}
template <int N>
__device__ __forceinline__ void clear(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i)
    x[i] = 0;
}
/// A [16,16] accumulator as a pair of a operands, times sign.
__device__ __forceinline__ void to_operand(const float* d,
                                           float sign,
                                           uint32_t (&hi)[4],
                                           uint32_t (&lo)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    split(sign * d[2 * i], sign * d[2 * i + 1], hi[i], lo[i]);
}
__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

/// The chunk in tile `stage` token by token in f32, for decays too strong for products of factors:
/// two threads a column of the state, 32 rows each. Writes y; reads and leaves the state in sm.s.
__device__ __forceinline__ void walk_tokens(Smem& sm,
                                            const DecayScanParams& p,
                                            int64_t b,
                                            int h,
                                            int64_t begin,
                                            int stage,
                                            int rb,
                                            bool flipped) {
  const int tid = threadIdx.x, lane = tid & 31, column = tid >> 1, first = 32 * (tid & 1);
  const int tokens = static_cast<int>(min(p.tokens - begin, static_cast<int64_t>(kQ)));
  float* decays = reinterpret_cast<float*>(sm.x[0]);  // [token][channel]
  {
    const View& x = p.log_decay;
    const float* from =
        static_cast<const float*>(x.data) + b * x.b + (begin + 16 * rb) * x.t + h * x.h + 2 * lane;
    for (int t = 16 * rb; t < min(16 * rb + 16, tokens); ++t, from += x.t) {
      decays[64 * t + 2 * lane] = exp2_fast(from[0] * kLog2E);
      decays[64 * t + 2 * lane + 1] = exp2_fast(from[1] * kLog2E);
    }
  }
  __syncthreads();
  const auto element =
      [&](int row) -> float& {  // of the column, where the thread that multiplies keeps it
    const int warp = flipped ? 3 - row / 16 : row / 16;
    const int thread = 32 * warp + 4 * (row % 8) + column % 8 / 2;
    return reinterpret_cast<float*>(&sm.s[column / 8][thread])[2 * (row / 8 % 2) + column % 2];
  };
  float S[32];
#pragma unroll
  for (int i = 0; i < 32; ++i)
    S[i] = element(first + i);
  bf16* y = static_cast<bf16*>(p.y) + ((b * p.tokens + begin) * p.heads + h) * kD + column;
#pragma unroll 1
  for (int t = 0; t < tokens; ++t, y += p.heads * kD) {
    const auto word = [&](int k, int i) {  // two channels
      const int part = (first + i) / 8 ^ (t & 7);
      return *reinterpret_cast<const uint32_t*>(
          &sm.in[stage][k][64 * t + 8 * part + (first + i) % 8]);
    };
    float u = 0, out = 0;
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      const uint32_t r = word(3, i);
      u = fmaf(unpack(r).x, S[i], u), u = fmaf(unpack(r).y, S[i + 1], u);
    }
    u += __shfl_xor_sync(~0u, u, 1);
    const float v = float(sm.in[stage][2][64 * t + 8 * (column / 8 ^ (t & 7)) + column % 8]);
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      const uint32_t k = word(1, i), w = word(4, i), q = word(0, i);
      const float2 a = *reinterpret_cast<const float2*>(decays + 64 * t + first + i);
      S[i] = fmaf(S[i], a.x, fmaf(unpack(k).x, v, -unpack(w).x * u));
      S[i + 1] = fmaf(S[i + 1], a.y, fmaf(unpack(k).y, v, -unpack(w).y * u));
      out = fmaf(unpack(q).x, S[i], out), out = fmaf(unpack(q).y, S[i + 1], out);
    }
    out += __shfl_xor_sync(~0u, out, 1);
    if (first == 0)
      *y = bf16(out);
  }
#pragma unroll
  for (int i = 0; i < 32; ++i)
    element(first + i) = S[i];
  __syncthreads();
}

/// What one thread holds of a head's scan, chunk by chunk, in a cluster of C CTAs that take the chunks in turn.
///
/// With r, w the rows read and written by the erase term, k, q, v, all scaled by their decays to the chunk's middle
/// (r by the decay before its token), and T1 = tril(r w^T, -1), T2 = tril(r k^T, -1), T3 = tril(q k^T), T4 = tril(q w^T):
///     u = (1 + T1)^-1 (r S + T2 v),   y = q S + T3 v - T4 u,   S' = decay S + k^T v - w^T u.
/// A warp has 16 rows of u and S, and, so that warps have equal work, the 16 rows of y from the other end.
template <int C>
class Worker {
 public:
  __device__ __forceinline__ Worker(Smem& memory, const DecayScanParams& params, int flip)
      : sm(memory),
        p(params),
        tid(threadIdx.x),
        lane(tid & 31),
        g(lane >> 2),
        q(lane & 3),
        seq(blockIdx.x / C),
        rank(blockIdx.x % C),
        h(static_cast<int>(seq % p.heads)),
        b(seq / p.heads),
        flipped(seq >= flip),
        rb(flipped ? 3 - (tid >> 5) : tid >> 5),
        rq(3 - rb),
        chunks((int)((p.tokens + kQ - 1) / kQ)),
        x0(shared_address(sm.x[0])),
        x1(shared_address(sm.x[1])),
        at_a((lane & 15) * 128 + (((lane >> 4) ^ (lane & 7)) << 4)),
        at_b(((lane & 7) + ((lane >> 4) << 3)) * 128 + (((lane >> 3 & 1) ^ (lane & 7)) << 4)),
        own(rb * 2048),
        own_q(rq * 2048) {}

  __device__ __forceinline__ void run() {
    begin();
#pragma unroll 1
    for (int chunk = rank; chunk < chunks; chunk += C, stage ^= 1) {
      tq = shared_address(sm.in[stage][0]);
      tk = tq + 8192, tv = tq + 2 * 8192, tr = tq + 3 * 8192, tw = tq + 4 * 8192;
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      float2 totals[4];
      if (too_strong(totals))
        walk(chunk);
      else
        multiply(chunk, totals);
      __syncthreads();
      fetch(chunk + 2 * C, stage);
    }
    if (C > 1)
      asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  }

 private:
  /// Rows of T1 (pairs of bf16, off the diagonal; the diagonal block goes to shared memory), T2, T3 and T4, as a operands.
  struct Products {
    uint32_t t1h[3][4] = {}, t1l[3][4] = {}, t2[4][4] = {}, t3[4][4] = {}, t4[4][4] = {};
  };
  /// This warp's rows of (1 + T1)^-1, in pairs: the diagonal block and those before it.
  struct Inverse {
    uint32_t dh[4], dl[4], oh[3][4] = {}, ol[3][4] = {};
  };

  /// Starts the copies of this warp's 16 rows of a chunk.
  __device__ __forceinline__ void fetch(int chunk, int stage) {
    if (chunk < chunks) {
      int r = lane >> 3, column = 8 * (lane & 7);
      asm volatile(""
                   : "+r"(r),
                     "+r"(column));  // addresses are made anew each time, not kept in registers
      const int64_t t = (int64_t)chunk * kQ + 16 * rb + r;
      const int left = (int)min(p.tokens - t, (int64_t)64);
      const uint32_t to = shared_address(sm.in[stage][0]) + (16 * rb + r) * 128,
                     word = ((lane & 7) ^ r) << 4;
#pragma unroll
      for (int k = 0; k < 5; ++k) {
        const View& x = k == 0 ? p.q : k == 1 ? p.k : k == 2 ? p.v : k == 3 ? p.read : p.write;
        const bf16* from = static_cast<const bf16*>(x.data) + b * x.b + t * x.t + h * x.h + column;
        const int64_t step = 4 * x.t;
#pragma unroll
        for (int i = 0; i < 4; ++i, from += step)
          copy16(to + k * 8192 + i * 512 + (word ^ (i & 1) << 6), from, 4 * i < left);
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  /// Loads the log decays of this warp's tokens.
  __device__ __forceinline__ void fetch_decays(int chunk) {
    int column = 2 * lane;
    asm volatile("" : "+r"(column));
    const int64_t t = (int64_t)chunk * kQ + 16 * rb;
    const int left = (int)max(min(p.tokens - t, (int64_t)16), (int64_t)0);
    const View& x = p.log_decay;
    const float* from = static_cast<const float*>(x.data) + b * x.b + t * x.t + h * x.h + column;
    const int64_t step = x.t;
#pragma unroll
    for (int i = 0; i < 16; ++i, from += step) {
      d[i] = make_float2(0, 0);
      if (i < left)
        d[i] = __ldcs(reinterpret_cast<const float2*>(from));
    }
  }

  /// Waits for the state that the cluster's CTA before hands over.
  __device__ __forceinline__ void receive() {
    if (tid == 0)
      asm volatile(
          "mbarrier.arrive.expect_tx.shared.b64 _, [%0], 16384;" ::"r"(shared_address(&sm.arrived))
          : "memory");
    asm volatile(
        "{\n.reg .pred p;\nW: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], "
        "%1;\n@p bra D;\nbra W;\nD:\n}" ::"r"(shared_address(&sm.arrived)),
        "r"(stage ^ (rank == 0))
        : "memory");
    __syncwarp();  // racecheck does not count a barrier that a warp reaches in parts
  }

  /// Hands the state after a chunk, from registers or from shared memory, to where it is needed next.
  __device__ __forceinline__ void pass_on(bool last, bool from_registers, const float4* given) {
    if (!from_registers && !last && C == 1)
      return;
    float4 S[8];
#pragma unroll
    for (int n = 0; n < 8; ++n)
      S[n] = from_registers ? given[n] : sm.s[n][tid];
    uint32_t next_s = 0, next_bar = 0;
    if (C > 1) {
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                   : "=r"(next_s)
                   : "r"(shared_address(&sm.s[0][tid])), "r"((rank + 1) % C));
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                   : "=r"(next_bar)
                   : "r"(shared_address(&sm.arrived)), "r"((rank + 1) % C));
    }
    if (last) {
      float* to = p.state_out + (int64_t)seq * kD * kD + (16 * rb + g) * kD + 2 * q;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        *reinterpret_cast<float2*>(to + 8 * n) = make_float2(S[n].x, S[n].y);
        *reinterpret_cast<float2*>(to + 8 * n + 8 * kD) = make_float2(S[n].z, S[n].w);
      }
    } else if (C > 1) {
#pragma unroll
      for (int n = 0; n < 8; ++n)
        asm volatile(
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], "
            "{%1,%2,%3,%4}, [%5];" ::"r"(next_s + n * kThreads * 16),
            "f"(S[n].x), "f"(S[n].y), "f"(S[n].z), "f"(S[n].w), "r"(next_bar)
            : "memory");
    } else {
#pragma unroll
      for (int n = 0; n < 8; ++n)
        sm.s[n][tid] = S[n];
    }
  }

  __device__ __forceinline__ void begin() {
    if (tid == 0) {
      asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(&sm.arrived)));
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (rank == 0) {
      float s[32];
#pragma unroll
      for (int i = 0; i < 32; ++i)
        s[i] = p.state_in[(int64_t)seq * kD * kD + (16 * rb + g + 8 * (i >> 1 & 1)) * kD +
                          8 * (i >> 2) + 2 * q + (i & 1)];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        sm.s[i][tid] = make_float4(s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]);
    }
    fetch(rank, 0);
    fetch(rank + C, 1);
    fetch_decays(rank);
    if (C > 1)
      asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  }

  /// Sums the decays of this warp's tokens into `d`, those of each block of 16 into `totals`. True, in all warps, if they
  /// are too strong to be split into factors at the chunk's middle.
  __device__ __forceinline__ bool too_strong(float2 (&totals)[4]) {
    float2 run = {0, 0};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float2 l = d[i];
      l.x *= kLog2E, l.y *= kLog2E;
      run.x += l.x, run.y += l.y;
      d[i] = run;
    }
    float* sums = reinterpret_cast<float*>(sm.x[0]);
    *reinterpret_cast<float2*>(sums + 64 * rb + 2 * lane) = run;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < 4; ++w)
      totals[w] = *reinterpret_cast<const float2*>(sums + 64 * w + 2 * lane);
    const float half = fminf(fminf(totals[0].x + totals[1].x, totals[2].x + totals[3].x),
                             fminf(totals[0].y + totals[1].y, totals[2].y + totals[3].y));
    const float sum = (totals[0].x + totals[1].x + totals[2].x + totals[3].x) +
                      (totals[0].y + totals[1].y + totals[2].y + totals[3].y);
    return __any_sync(~0u, !(half >= -kStrong) || isnan(sum));  // all warps have seen all channels
  }

  __device__ __forceinline__ void walk(int chunk) {
    __syncthreads();  // the sums were read
    if (C > 1 && chunk > 0)
      receive();
    walk_tokens(sm, p, b, h, static_cast<int64_t>(chunk) * kQ, stage, rb, flipped);
    pass_on(chunk == chunks - 1, false, nullptr);
    fetch_decays(chunk + C);
    __syncthreads();
    fetch(chunk + 2 * C, stage);
  }

  __device__ __forceinline__ void multiply(int chunk, const float2 (&totals)[4]) {
    scale(totals);
    __syncthreads();
    Products products;
    make_products(products);
    invert_block();
    float R[32], O[32], P[32];  // what the values alone contribute: T2 v, T3 v, k^T v
    clear(R), clear(O), clear(P);
    add_values(products, R, O, P);
    __syncthreads();
    Inverse inverse;
    invert(products, inverse);
    uint32_t qa[4][4];
    if (C == 1)
      solve(inverse, R, O, qa);
    else
      solve_in_turn(chunk, inverse, R, qa);
    const uint32_t u_low = C == 1 ? tr : x1;
    store_pairs(R, -1.f, tq, u_low);
    __syncthreads();
    if (C == 1)
      fetch_decays(chunk + C);
    advance(chunk, products, u_low, P, O);
    if (C > 1) {
      fetch_decays(chunk + C);
      add_outputs(products, qa, O);
    }
    write_y(chunk, O);
  }

  /// Scales q, r, k and w by their decays to the chunk's middle, in place; keeps the state's own factors.
  __device__ __forceinline__ void scale(const float2 (&totals)[4]) {
    const float* sums = reinterpret_cast<const float*>(sm.x[0]);
    const uint32_t in = tq;
    float2 off;
    off.x = rb == 0   ? -(totals[0].x + totals[1].x)
            : rb == 1 ? -totals[1].x
            : rb == 2 ? 0.f
                      : totals[2].x;
    off.y = rb == 0   ? -(totals[0].y + totals[1].y)
            : rb == 1 ? -totals[1].y
            : rb == 2 ? 0.f
                      : totals[2].y;
    if (lane < 16) {  // of this warp's rows of S
      const int c = 16 * rb + lane;
      const float mid = sums[c] + sums[64 + c], rest = sums[128 + c] + sums[192 + c],
                  all = mid + rest;
      sm.em[c] = exp2_fast(mid);
      sm.to_end[c] = exp2_fast(rest);
      sm.change[c] = all > -1.f ? -fabsf(expm1f(all * kLn2)) : exp2_fast(all);
    }
    float2 before = {exp2_fast(off.x), exp2_fast(off.y)};
    const uint32_t at = in + own + (lane & 3) * 4;
#pragma unroll
    for (int first = 0; first < 16; first += 8) {
      uint32_t v[8][4];
      const auto word = [&](int i, int k) {
        return at + (first + i) * 128 + (((lane >> 2) ^ i) << 4) + (k < 2 ? k : k + 1) * 8192;
      };
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k)
          asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v[i][k]) : "r"(word(i, k)) : "memory");
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float ex = off.x + d[first + i].x, ey = off.y + d[first + i].y;
        const float2 f = {exp2_fast(ex), exp2_fast(ey)}, r = {exp2_fast(-ex), exp2_fast(-ey)};
        const float2 by[4] = {f, r, before, r};
#pragma unroll
        for (int k = 0; k < 4; ++k)
          asm volatile("st.shared.b32 [%0], %1;" ::"r"(word(i, k)),
                       "r"(pack(unpack(v[i][k]).x * by[k].x, unpack(v[i][k]).y * by[k].y))
                       : "memory");
        before = f;
      }
    }
  }

  /// The four triangular products, 16 columns at a time; rows as a operands.
  __device__ __forceinline__ void make_products(Products& products) {
    uint32_t qa[4][4], ra[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      load_matrices(qa[k], tq + own_q + (at_a ^ (k << 5)));
      load_matrices(ra[k], tr + own + (at_a ^ (k << 5)));
    }
    uint32_t nk[2][4][4], nw[2][4][4];
    const auto columns = [&](int j) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        load_matrices(nk[j & 1][k], tk + j * 2048 + (at_b ^ (k << 5)));
        load_matrices(nw[j & 1][k], tw + j * 2048 + (at_b ^ (k << 5)));
      }
    };
    columns(0);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < 3)
        columns(j + 1);
      const auto &bk = nk[j & 1], &bw = nw[j & 1];
      if (j <= rb) {
        float m1[8], m2[8];
        clear(m1), clear(m2);
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int n = 0; n < 2; ++n)
            mma(m1 + 4 * n, ra[k], bw[k][2 * n], bw[k][2 * n + 1]),
                mma(m2 + 4 * n, ra[k], bk[k][2 * n], bk[k][2 * n + 1]);
        if (j == rb) {
          float* lt =
              reinterpret_cast<float*>(sm.x[0]) + rb * 320;  // [column][row], 20 floats a column
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            const int i = g + 8 * (e >> 1 & 1), c = 8 * (e >> 2) + 2 * q + (e & 1);
            lt[20 * c + i] = m1[e];
            m2[e] = i > c ? m2[e] : 0.f;
          }
        } else if (j < 3) {
          to_operand(m1, 1.f, products.t1h[j], products.t1l[j]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
          products.t2[j][i] = pack(m2[2 * i], m2[2 * i + 1]);
      }
      if (j <= rq) {
        float m3[8], m4[8];
        clear(m3), clear(m4);
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int n = 0; n < 2; ++n)
            mma(m3 + 4 * n, qa[k], bk[k][2 * n], bk[k][2 * n + 1]),
                mma(m4 + 4 * n, qa[k], bw[k][2 * n], bw[k][2 * n + 1]);
        if (j == rq)
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            const bool seen = g + 8 * (e >> 1 & 1) >= 8 * (e >> 2) + 2 * q + (e & 1);
            m3[e] = seen ? m3[e] : 0.f;
            m4[e] = seen ? m4[e] : 0.f;
          }
#pragma unroll
        for (int i = 0; i < 4; ++i)
          products.t3[j][i] = pack(m3[2 * i], m3[2 * i + 1]),
          products.t4[j][i] = pack(m4[2 * i], m4[2 * i + 1]);
      }
    }
  }

  /// Inverse of 1 + T1's diagonal block: a lane per column, forward substitution. Pairs of 16x16 tiles, 48-byte rows, low 800
  /// bytes behind high.
  __device__ __forceinline__ void invert_block() {
    __syncwarp();

    const float* lt = reinterpret_cast<const float*>(sm.x[0]) + rb * 320;
    const int c = lane & 15;
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i)
      x[i] = i == c ? 1.f : 0.f;
#pragma unroll
    for (int j = 0; j < 15; ++j)
#pragma unroll
      for (int i4 = (j + 1) / 4; i4 < 4; ++i4) {
        const float4 l = *reinterpret_cast<const float4*>(lt + 20 * j + 4 * i4);
        if (4 * i4 > j)
          x[4 * i4] = fmaf(-l.x, x[j], x[4 * i4]);
        if (4 * i4 + 1 > j)
          x[4 * i4 + 1] = fmaf(-l.y, x[j], x[4 * i4 + 1]);
        if (4 * i4 + 2 > j)
          x[4 * i4 + 2] = fmaf(-l.z, x[j], x[4 * i4 + 2]);
        if (4 * i4 + 3 > j)
          x[4 * i4 + 3] = fmaf(-l.w, x[j], x[4 * i4 + 3]);
      }
    bf16* to = reinterpret_cast<bf16*>(reinterpret_cast<char*>(sm.x[0]) + 5120 + rb * 1600 +
                                       (lane >> 4) * 800) +
               c;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const bf16 hi = bf16(x[i]), lo = bf16(x[i] - float(hi));
      to[24 * i] = lane < 16 ? hi : lo;
    }
  }

  __device__ __forceinline__ void add_values(const Products& products,
                                             float (&R)[32],
                                             float (&O)[32],
                                             float (&P)[32]) {
    uint32_t v[2][4][4], ak[2][4];
    const auto rows = [&](int j) {
      load_matrices_transposed(ak[j & 1], tk + j * 2048 + (at_b ^ (rb << 5)));
      load_rows(v[j & 1], tv + j * 2048);
    };
    rows(0);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < 3)
        rows(j + 1);
      mma_row(P, ak[j & 1], v[j & 1]);
      if (j <= rb)
        mma_row(R, products.t2[j], v[j & 1]);
      if (j <= rq)
        mma_row(O, products.t3[j], v[j & 1]);
    }
  }

  /// Off the diagonal: Inv_wj = -Inv_ww sum_m T1_wm Inv_mj, blocks (1,0) and (3,2) first.
  __device__ __forceinline__ void invert(const Products& products, Inverse& inverse) {
    const uint32_t inv = x0 + 5120, at_t = (lane & 15) * 48 + (lane >> 4) * 16;

    load_matrices(inverse.dh, inv + rb * 1600 + at_t);
    load_matrices(inverse.dl, inv + rb * 1600 + 800 + at_t);
    const auto b_pair = [&](uint32_t(&bh)[4], uint32_t(&bl)[4], int tile) {
      load_matrices_transposed(bh, inv + tile * 1600 + at_t);
      load_matrices_transposed(bl, inv + tile * 1600 + 800 + at_t);
    };
    const auto publish = [&](const uint32_t(&hi)[4], const uint32_t(&lo)[4],
                             int tile) {  // of accumulators' order
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t at = inv + tile * 1600 + (g + 8 * (i & 1)) * 48 + (i >> 1) * 16 + 4 * q;
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(hi[i]) : "memory");
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(at + 800), "r"(lo[i]) : "memory");
      }
    };
    const auto times_diagonal = [&](float(&to)[8], const uint32_t(&zh)[4],
                                    const uint32_t(&zl)[4]) {  // z in accumulators' order
      uint32_t bh[4], bl[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        bh[i] = transpose(zh[i]), bl[i] = transpose(zl[i]);
      mma_pairs(to, inverse.dh, inverse.dl, bh, bl);
    };
    const auto first_level = [&](const uint32_t(&th)[4], const uint32_t(&tl)[4], int tile,
                                 uint32_t(&ph)[4], uint32_t(&pl)[4]) {
      uint32_t bh[4], bl[4], zh[4], zl[4];
      float z[8], o[8];
      clear(z), clear(o);
      b_pair(bh, bl, tile);
      mma_pairs(z, th, tl, bh, bl);
      to_operand(z, 1.f, zh, zl);
      times_diagonal(o, zh, zl);
      to_operand(o, -1.f, ph, pl);
    };
    if (rb == 1) {
      first_level(products.t1h[0], products.t1l[0], 0, inverse.oh[0], inverse.ol[0]);
      publish(inverse.oh[0], inverse.ol[0], 4);
      asm volatile("bar.arrive 1, 96;" ::: "memory");
    } else if (rb >= 2) {
      if (rb == 3)
        first_level(products.t1h[2], products.t1l[2], 2, inverse.oh[2], inverse.ol[2]);
      asm volatile("bar.sync 1, 96;" ::: "memory");
      uint32_t bh[4], bl[4], z0h[4], z0l[4], z1h[4], z1l[4];
      float z0[8], z1[8];
      clear(z0), clear(z1);
      b_pair(bh, bl, 0);
      mma_pairs(z0, products.t1h[0], products.t1l[0], bh, bl);
      b_pair(bh, bl, 1);
      mma_pairs(z1, products.t1h[1], products.t1l[1], bh, bl);
      b_pair(bh, bl, 4);
      mma_pairs(z0, products.t1h[1], products.t1l[1], bh, bl);
      to_operand(z0, 1.f, z0h, z0l);
      to_operand(z1, 1.f, z1h, z1l);
      if (rb == 2) {
        publish(z0h, z0l, 5);
        publish(z1h, z1l, 6);
        asm volatile("bar.arrive 2, 64;" ::: "memory");
      }
      clear(z0), clear(z1);
      times_diagonal(z0, z0h, z0l);
      times_diagonal(z1, z1h, z1l);
      if (rb == 3) {
        asm volatile("bar.sync 2, 64;" ::: "memory");
        b_pair(bh, bl, 5);
        mma_pairs(z0, inverse.oh[2], inverse.ol[2], bh, bl);
        b_pair(bh, bl, 6);
        mma_pairs(z1, inverse.oh[2], inverse.ol[2], bh, bl);
      }
      to_operand(z0, -1.f, inverse.oh[0], inverse.ol[0]);
      to_operand(z1, -1.f, inverse.oh[1], inverse.ol[1]);
    }
  }

  /// 16 rows of a tile's 64 columns, as b operands.
  __device__ __forceinline__ void load_rows(uint32_t (&x)[4][4], uint32_t rows) const {
#pragma unroll
    for (int n = 0; n < 4; ++n)
      load_matrices_transposed(x[n], rows + (at_a ^ (n << 5)));
  }

  /// Hands over the published state, 16 rows at a time; the next are loaded meanwhile.
  template <class Take>
  __device__ __forceinline__ void for_state_rows(const Take& take) const {
    uint32_t s[2][4][4];
    load_rows(s[0], tr);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k < 3)
        load_rows(s[(k + 1) & 1], tr + (k + 1) * 2048);
      take(k, s[k & 1]);
    }
  }

  /// This warp's rows of a tile, 16 columns.
  __device__ __forceinline__ void store(
      uint32_t tile, int n, uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
    stsm(tile + own + (at_a ^ (n << 5)), w0, w1, w2, w3);
  }

  __device__ __forceinline__ void store_pairs(const float (&x)[32],
                                              float sign,
                                              uint32_t hi,
                                              uint32_t lo) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      uint32_t wh[4], wl[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        split(sign * x[8 * n + 2 * i], sign * x[8 * n + 2 * i + 1], wh[i], wl[i]);
      store(hi, n, wh[0], wh[1], wh[2], wh[3]);
      store(lo, n, wl[0], wl[1], wl[2], wl[3]);
    }
  }

  /// `to` += rows of the inverse times the pairs in x0 and x1.
  __device__ __forceinline__ void times_inverse(const Inverse& inverse, float (&to)[32]) {
    const auto add = [&](const uint32_t(&ah)[4], const uint32_t(&al)[4], uint32_t row) {
      uint32_t x[4][4], y[4][4];
      load_rows(x, x0 + row);
      load_rows(y, x1 + row);
      mma_row(to, ah, x);
      mma_row(to, al, x);
      mma_row(to, ah, y);
    };
#pragma unroll
    for (int j = 0; j < 3; ++j)
      if (j < rb)
        add(inverse.oh[j], inverse.ol[j], j * 2048);
    add(inverse.dh, inverse.dl, own);
  }

  /// This warp's rows of the state, decayed to the chunk's middle, to r's tile.
  __device__ __forceinline__ void publish_state() {
    const float em[2] = {sm.em[16 * rb + g], sm.em[16 * rb + g + 8]};
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float4 s0 = sm.s[2 * n][tid], s1 = sm.s[2 * n + 1][tid];
      store(tr, n, pack(s0.x * em[0], s0.y * em[0]), pack(s0.z * em[1], s0.w * em[1]),
            pack(s1.x * em[0], s1.y * em[0]), pack(s1.z * em[1], s1.w * em[1]));
    }
  }

  /// u in R, q S in O: the state is this CTA's own, so r S is known before the inverse is applied.
  __device__ __forceinline__ void solve(const Inverse& inverse,
                                        float (&R)[32],
                                        float (&O)[32],
                                        uint32_t (&qa)[4][4]) {
    uint32_t ra[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      load_matrices(ra[k], tr + own + (at_a ^ (k << 5)));
      load_matrices(qa[k], tq + own_q + (at_a ^ (k << 5)));
    }
    __syncwarp();
    publish_state();
    __syncthreads();
    for_state_rows([&](int k, const uint32_t(&s)[4][4]) {
      mma_row(R, ra[k], s);
      mma_row(O, qa[k], s);
    });
    store_pairs(R, 1.f, x0, x1);
    __syncthreads();
    clear(R);
    times_inverse(inverse, R);
  }

  /// u in R: the inverse is applied to r and to T2 v before the state arrives.
  __device__ __forceinline__ void solve_in_turn(int chunk,
                                                const Inverse& inverse,
                                                float (&R)[32],
                                                uint32_t (&qa)[4][4]) {
    uint32_t ra[4][4];
    __syncthreads();  // all are through with the inverse's scratch
    store_pairs(R, 1.f, x0, x1);
    __syncthreads();
    clear(R);
    times_inverse(inverse, R);
    invert_reads(inverse, ra);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      load_matrices(qa[k], tq + own_q + (at_a ^ (k << 5)));
    __syncthreads();  // r^, q^ and R have been read
    if (chunk > 0)
      receive();
    publish_state();
    __syncthreads();
    for_state_rows([&](int k, const uint32_t(&s)[4][4]) { mma_row(R, ra[k], s); });
  }

  /// The inverse times r, as a operands.
  __device__ __forceinline__ void invert_reads(const Inverse& inverse, uint32_t (&ra)[4][4]) {
    float W[32];
    clear(W);
    const auto add = [&](const uint32_t(&ah)[4], const uint32_t(&al)[4], uint32_t row) {
      uint32_t r[4][4];
      load_rows(r, tr + row);
      mma_row(W, ah, r);
      mma_row(W, al, r);
    };
#pragma unroll
    for (int j = 0; j < 3; ++j)
      if (j < rb)
        add(inverse.oh[j], inverse.ol[j], j * 2048);
    add(inverse.dh, inverse.dl, own);
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        ra[k][i] = pack(W[8 * k + 2 * i], W[8 * k + 2 * i + 1]);
  }

  /// Takes w^T u from P (and T4 u from O where the state is this CTA's own), advances the state and passes it on.
  __device__ __forceinline__ void advance(
      int chunk, const Products& products, uint32_t u_low, float (&P)[32], float (&O)[32]) {
    const float to_end[2] = {sm.to_end[16 * rb + g], sm.to_end[16 * rb + g + 8]},
                change[2] = {sm.change[16 * rb + g], sm.change[16 * rb + g + 8]};
    const bool weak[2] = {__float_as_int(change[0]) < 0,
                          __float_as_int(change[1]) < 0};  // -0, no decay, is weak too

    uint32_t aw[2][4], uh[4][4], ul[4][4];
    load_matrices_transposed(aw[0], tw + (at_b ^ (rb << 5)));
    load_rows(uh, tq);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      load_rows(ul, u_low + j * 2048);
      mma_row(P, aw[j & 1], uh);
      if (C == 1)
        mma_row(O, products.t4[j], uh);  // zeros behind the diagonal: no branch
      if (j < 3) {
        load_matrices_transposed(aw[(j + 1) & 1], tw + (j + 1) * 2048 + (at_b ^ (rb << 5)));
        load_rows(uh, tq + (j + 1) * 2048);
      }
      mma_row(P, aw[j & 1], ul);
    }
    float4 S[8];
#pragma unroll
    for (int n = 0; n < 8; ++n)
      S[n] = sm.s[n][tid];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      S[n].x = fmaf(S[n].x, change[0], weak[0] ? S[n].x : 0.f) + to_end[0] * P[4 * n];
      S[n].y = fmaf(S[n].y, change[0], weak[0] ? S[n].y : 0.f) + to_end[0] * P[4 * n + 1];
      S[n].z = fmaf(S[n].z, change[1], weak[1] ? S[n].z : 0.f) + to_end[1] * P[4 * n + 2];
      S[n].w = fmaf(S[n].w, change[1], weak[1] ? S[n].w : 0.f) + to_end[1] * P[4 * n + 3];
    }
    pass_on(chunk == chunks - 1, true, S);
  }

  /// O += q S - T4 u, after the state has been passed on.
  __device__ __forceinline__ void add_outputs(const Products& products,
                                              const uint32_t (&qa)[4][4],
                                              float (&O)[32]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t x[4][4];
      load_rows(x, tr + k * 2048);
      mma_row(O, qa[k], x);
      if (k <= rq) {
        load_rows(x, tq + k * 2048);
        mma_row(O, products.t4[k], x);
      }
    }
  }

  /// y by way of this warp's rows of x[0].
  __device__ __forceinline__ void write_y(int chunk, const float (&O)[32]) {
#pragma unroll
    for (int n = 0; n < 4; ++n)
      store(x0, n, pack(O[8 * n], O[8 * n + 1]), pack(O[8 * n + 2], O[8 * n + 3]),
            pack(O[8 * n + 4], O[8 * n + 5]), pack(O[8 * n + 6], O[8 * n + 7]));
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = (lane >> 3) + 4 * i, c = lane & 7;
      const int64_t t = (int64_t)chunk * kQ + 16 * rq + row;
      uint4 v;
      asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "r"(x0 + own + row * 128 + ((c ^ (row & 7)) << 4))
                   : "memory");
      if (t < p.tokens)
        __stcs(reinterpret_cast<uint4*>(static_cast<bf16*>(p.y) +
                                        ((b * p.tokens + t) * p.heads + h) * kD + 8 * c),
               v);
    }
  }

  Smem& sm;
  const DecayScanParams& p;
  const int tid, lane, g, q;  // g, q: row and pair of columns of a fragment
  const int seq, rank, h;
  const int64_t b;
  const bool flipped;  // warps take their rows from the other end
  const int rb, rq;    // this warp's 16 rows of r, w, k, v and S, and of q and y
  const int chunks;
  const uint32_t x0, x1;
  // ldmatrix addresses inside a tile: rows lane & 15, and rows of n (or of k, transposed); 16 columns further: ^ 32.
  const uint32_t at_a, at_b;
  const uint32_t own, own_q;    // of this warp's rows
  uint32_t tq, tk, tv, tr, tw;  // the chunk's tiles
  float2 d[16];                 // log decays of this warp's tokens, channels 2 lane and 2 lane + 1
  int stage = 0;
};

#endif  // STUFFED_ON_HOPPER

template <int C>
__global__ void __launch_bounds__(kThreads, 2)
    erase_hopper_kernel(const __grid_constant__ DecayScanParams p, int flip) {
#ifdef STUFFED_ON_HOPPER
  extern __shared__ __align__(128) char memory[];
  Worker<C>(*reinterpret_cast<Smem*>(memory), p, flip).run();
#endif
}

template <int C>
cudaError_t launch_clusters(const DecayScanParams& p, cudaStream_t stream, int* fit) {
  constexpr int kBytes = sizeof(Smem);
  if (const cudaError_t error = allow_shared_memory(erase_hopper_kernel<C>, kBytes);
      error != cudaSuccess)
    return error;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = C;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(p.batch * p.heads * C));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  if (fit)
    return cudaOccupancyMaxActiveClusters(fit, erase_hopper_kernel<C>, &config);
  const int flip = device_attribute(cudaDevAttrMultiProcessorCount) / C;
  return cudaLaunchKernelEx(&config, erase_hopper_kernel<C>, p, flip > 0 ? flip : 1);
}

using Clusters = cudaError_t (*)(const DecayScanParams&, cudaStream_t, int*);

/// The largest clusters that all fit at once.
cudaError_t launch(const DecayScanParams& p, const DecayScanPlan&, int, int, cudaStream_t stream) {
  constexpr Clusters kSizes[] = {launch_clusters<6>, launch_clusters<5>, launch_clusters<3>,
                                 launch_clusters<2>};
  for (const Clusters size : kSizes) {
    int fit = 0;
    if (const cudaError_t error = size(p, stream, &fit); error != cudaSuccess)
      return error;
    if (fit >= p.batch * p.heads)
      return size(p, stream, nullptr);
  }
  return launch_clusters<1>(p, stream, nullptr);
}

}  // namespace

Path erase_hopper_path(const DecayScanParams&) {
  return {launch, kD, resident_ctas(erase_hopper_kernel<1>, kThreads, sizeof(Smem))};
}

bool erase_hopper_takes(const DecayScanParams& p) {
  return p.read.data && p.has_vector_decay && !p.bonus.data && !p.bonus_k.data && !p.v_scale.data &&
         p.keys == kD && p.columns == kD && takes_boxes(p.q, p.tokens) &&
         takes_boxes(p.k, p.tokens) && takes_boxes(p.v, p.tokens) &&
         takes_boxes(p.read, p.tokens) && takes_boxes(p.write, p.tokens) &&
         takes_boxes(p.log_decay, p.tokens, {sizeof(float), kBlock}) &&
         reinterpret_cast<uintptr_t>(p.y) % 16 == 0 && on_hopper();
}

}  // namespace stuffed::kernels::scan
