#pragma once
#include <string_view>

#include "kernels/decay_scan/decay_scan.h"  // ScanInputs, ScanResult

namespace stuffed {

enum class Impl { Auto, Reference, Chunked, Cuda };

std::string_view impl_name(Impl impl);   // "auto", "reference", "chunked", "cuda"
Impl parse_impl(std::string_view name);  // throws Usage

namespace ops {

/// Advances a decayed outer-product memory by T tokens.
///
///   S_t = exp(log_decay_t) * S_{t-1} [- write_t (read_t^T S_{t-1})] + k_t (v_scale_t v_t)^T
///   y_t = q_t^T S_t                                 without bonus (Mamba, HGRN-2, RWKV-7)
///   y_t = q_t^T (S_{t-1} + diag(bonus) k_t v_t^T)   with bonus (RWKV-5, RWKV-6)
///
/// Shapes  q,k [B,T,H,K]; v [B,T,H,V]; log_decay [B,T,H,K] or [B,T,H,1]; v_scale [B,T,H];
///         bonus [H,K]; state [B,H,K,V]; any T, 0 included
/// Types   q,k,v bf16 or f32; log_decay, v_scale, bonus f32; state f32 (f64 throughout in tests);
///         y has the type of v
/// Units   log_decay in nats per token, <= 0 (-inf allowed: the state is forgotten exactly)
/// Cost    O(B T H K V); allocates y and one new state, never writes its inputs
/// Errors  Internal if a shape, type, device or sign above is wrong; Unsupported if `impl` is not in
///         this build
/// Source  arXiv:2405.21060 (Mamba-2), 2404.05892 (RWKV-5/6), 2404.07904 (HGRN-2),
///         2312.00752 (Mamba-1), 2503.14456 (RWKV-7)
ScanResult decay_scan(const ScanInputs& in, const Tensor& state, Impl impl = Impl::Auto);

/// decay_scan that writes the new state over `state`, which must be dense and nobody else's. The
/// same bits.
Tensor decay_scan_in_place(const ScanInputs& in, const Tensor& state, Impl impl = Impl::Auto);

/// The implementation that `decay_scan` takes for these inputs; never Auto.
Impl choose(const ScanInputs& in, Impl impl);

/// The chunked form in ATen: any device, differentiable. `chunk` tokens are handled at a time
/// (16..256; the value changes rounding only). Chunks of 64 on the CPU are left to
/// kernels::decay_scan_tiled where it takes them and no gradient is wanted.
ScanResult decay_scan_chunked(const ScanInputs& in, const Tensor& state, int64_t chunk = 64);

}  // namespace ops
}  // namespace stuffed
