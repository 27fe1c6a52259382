// The recurrence as matrix products over chunks of tokens, in ATen: runs on any device, and has a
// gradient. The derivation is in README.md.
#include <algorithm>
#include <bit>
#include <limits>

#include <ATen/ATen.h>

#include "kernels/common/matrix_product.h"
#include "kernels/common/recompute.h"
#include "kernels/decay_scan/decay_scan_aten_blocks.h"
#include "stuffed/core/interrupt.h"

namespace stuffed::kernels {

namespace {

/// The chunks of one block, [B,n,H,Q,...]. `q` and `k` have one head where all heads share them.
struct Chunks {
  Tensor q, k;        // [B,n,H|1,Q,K]
  Tensor v;           // [B,n,H,Q,V], as inserted
  Tensor log_decay;   // [B,n,H,Q,K|1]
  Tensor bonus = {};  // [B,n,H,Q,V], what y reads of its own token; undefined without a bonus
  Tensor read = {}, write = {};  // [B,n,H,Q,K], undefined without an erase term
};

/// A chunk as a map of the state it starts from: y = own + q_scale * (q S),
/// S' = exp(log_decay) * S + insert.
struct ChunkMaps {
  Tensor own;        // [B,n,H,Q,V]
  Tensor q;          // [B,n,H|1,Q,K]
  Tensor q_scale;    // [B,n,H,Q,1]; undefined if q holds it already
  Tensor log_decay;  // [B,n,H,K|1,1]
  Tensor insert;     // [B,n,H,K,V]
};

/// [..,H,Q,K] x [..,H,K,V]. One matrix shared by all heads meets all their columns in one product.
Tensor per_head(const Tensor& shared, const Tensor& x) {
  const int64_t heads = x.size(2);
  if (shared.size(2) == heads)
    return matrix_product(shared, x);
  const Tensor columns = x.transpose(2, 3).flatten(3, 4).unsqueeze(2);  // [B,n,1,K,H*V]
  return matrix_product(shared, columns).squeeze(2).unflatten(-1, {heads, -1}).transpose(2, 3);
}

Chunks split_block(const ScanInputs& in, int64_t chunk, at::ScalarType type) {
  const auto expanded = [](const Tensor& x) { return x.size(2) > 1 && x.stride(2) == 0; };
  const bool shared =
      !in.bonus && !in.erase && in.log_decay.size(3) == 1 && expanded(in.q) && expanded(in.k);
  const auto heads = [&](const Tensor& x) {
    return chunks(shared ? x.narrow(2, 0, 1) : x, chunk, type);
  };
  Chunks c{.q = heads(in.q),
           .k = heads(in.k),
           .v = chunks(in.v, chunk, type),
           .log_decay = chunks(in.log_decay, chunk, type)};
  if (in.bonus) {
    const Tensor key = in.bonus_k ? chunks(*in.bonus_k, chunk, type) : c.k;
    c.bonus = (c.q * in.bonus->unsqueeze(1) * key).sum(-1, true) * c.v;
  }
  if (in.v_scale)
    c.v = c.v * chunks(*in.v_scale, chunk, type);
  if (in.erase) {
    c.read = chunks(in.erase->read, chunk, type);
    c.write = chunks(in.erase->write, chunk, type);
  }
  return c;
}

/// [[first, above], [below, second]] for each pair of w x w blocks, `above` filled with one number.
Tensor assemble(const Tensor& blocks, const Tensor& below, double above) {
  const auto [first, second] = pairs(blocks);
  return at::cat({at::cat({first, at::full_like(first, above)}, -1), at::cat({below, second}, -1)},
                 -2);
}

/// One decay per head: products of whole chunks, weighted by one matrix of decays.
ChunkMaps scalar_maps(const Chunks& c) {
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  Runs runs = single_tokens(c.log_decay, c.bonus.defined());
  Tensor elapsed =
      at::full_like(runs.total, c.bonus.defined() ? kNever : 0.0);  // [B,n,H,Q,1,1], log weights
  while (runs.before.size(-3) > 1) {
    const auto [earlier, later] = neighbours(runs);
    elapsed = assemble(elapsed, later.before + earlier.after.transpose(-1, -2), kNever);
    runs = join(earlier, later);
  }
  const Tensor weights =
      matrix_product(c.q, c.k.transpose(-1, -2)).tril() * elapsed.squeeze(-3).exp();
  return {.own = matrix_product(weights, c.v),
          .q = c.q,
          .q_scale = runs.before.squeeze(-3).exp(),
          .log_decay = runs.total.squeeze(-3),
          .insert = per_head(c.k.transpose(-1, -2), c.v * runs.after.squeeze(-3).exp())};
}

/// A decay per key channel. Between a column j and a row i > j lies exactly one border of the
/// binary tree over the chunk's tokens at which they part; both are decayed to that border, one
/// forward and one backward.
struct Tree {
  struct Level {
    Tensor rows, columns;  // [B,n,H,Q/2w,w,K], factors in [0,1]
  };
  std::vector<Level> levels;
  Runs chunk;  // of whole chunks, [B,n,H,Q,K]

  Tree(const Tensor& log_decay, bool reads_before_update) {
    Runs runs = single_tokens(log_decay, reads_before_update);
    while (runs.before.size(-3) > 1) {
      const auto [earlier, later] = neighbours(runs);
      levels.push_back({later.before.exp(), earlier.after.exp()});
      runs = join(earlier, later);
    }
    chunk = {runs.before.squeeze(-3), runs.after.squeeze(-3), runs.total.squeeze(-3)};
  }

  /// [B,n,H,Q,Q]: sum_c rows[i,c] decay(j..i, c) columns[j,c] for j < i, `diagonal` [B,n,H,Q,1] or
  /// zero at j = i.
  Tensor products(const Tensor& rows, const Tensor& columns, const Tensor& diagonal) const {
    Tensor matrix =
        (diagonal.defined() ? diagonal : at::zeros_like(rows.narrow(-1, 0, 1))).unsqueeze(-1);
    for (const Level& level : levels) {
      const int64_t width = level.rows.size(-2);
      const Tensor later = rows.unflatten(-2, {-1, 2, width}).select(-3, 1) * level.rows;
      const Tensor earlier = columns.unflatten(-2, {-1, 2, width}).select(-3, 0) * level.columns;
      matrix = assemble(matrix, matrix_product(later, earlier.transpose(-1, -2)), 0);
    }
    return matrix.squeeze(-3);
  }
};

ChunkMaps vector_maps(const Chunks& c) {
  const Tree tree(c.log_decay, c.bonus.defined());
  const Tensor diagonal = c.bonus.defined() ? Tensor() : (c.q * c.k).sum(-1, true);
  return {.own = matrix_product(tree.products(c.q, c.k, diagonal), c.v),
          .q = c.q * tree.chunk.before.exp(),
          .q_scale = {},
          .log_decay = tree.chunk.total.transpose(-1, -2),
          .insert = matrix_product((c.k * tree.chunk.after.exp()).transpose(-1, -2), c.v)};
}

/// Takes the state from chunk to chunk.
ScanResult walk(const ChunkMaps& maps, Tensor state) {
  const StateDecays decay(maps.log_decay);
  const std::vector<Tensor> insert = maps.insert.unbind(1);
  std::vector<Tensor> starts;
  for (size_t i = 0; i < insert.size(); ++i) {
    starts.push_back(state);
    state = decay.advance(i, state, insert[i]);
  }
  const Tensor seen = per_head(maps.q, at::stack(starts, 1));
  return {maps.own + (maps.q_scale.defined() ? seen * maps.q_scale : seen), state};
}

/// The delta rule. With u_t = read_t^T S_{t-1}, what a token erases, S_t = decay S_{t-1} + k_t
/// v_t^T - write_t u_t^T is an ordinary scan; and u solves a unit lower triangular system per
/// chunk: (I + A_rb) u = A_rk v + read~ S.
ScanResult walk_erasing(const Chunks& c, Tensor state) {
  const Tensor log_decay = c.log_decay.expand_as(c.k);
  const Tree tree(log_decay, c.bonus.defined()), reader(log_decay, true);
  const auto dot = [&](const Tensor& x) {
    return c.bonus.defined() ? Tensor() : (c.q * x).sum(-1, true);
  };
  const Tensor system = reader.products(c.read, c.write, {});
  const Tensor right = at::cat(
      {c.read * reader.chunk.before.exp(), matrix_product(reader.products(c.read, c.k, {}), c.v)},
      -1);
  const Tensor solved = at::linalg_solve_triangular(system, right, /*upper=*/false, /*left=*/true,
                                                    /*unitriangular=*/true);
  const int64_t K = c.k.size(-1);
  const Tensor remaining = tree.chunk.after.exp();
  const std::vector<Tensor> from_state = solved.narrow(-1, 0, K).unbind(1),
                            from_inputs = solved.narrow(-1, K, c.v.size(-1)).unbind(1),
                            write = (c.write * remaining).transpose(-1, -2).unbind(1),
                            insert =
                                matrix_product((c.k * remaining).transpose(-1, -2), c.v).unbind(1);
  const StateDecays decay(tree.chunk.total.transpose(-1, -2));
  std::vector<Tensor> starts, erased;
  for (size_t i = 0; i < insert.size(); ++i) {
    starts.push_back(state);
    erased.push_back(matrix_product(from_state[i], state) + from_inputs[i]);
    state = decay.advance(i, state, insert[i] - matrix_product(write[i], erased.back()));
  }
  const Tensor own =
      matrix_product(tree.products(c.q, c.k, dot(c.k)), c.v) -
      matrix_product(tree.products(c.q, c.write, dot(c.write)), at::stack(erased, 1));
  return {own + matrix_product(c.q * tree.chunk.before.exp(), at::stack(starts, 1)), state};
}

ScanResult matrix_block(const ScanInputs& in, const Tensor& state, int64_t chunk) {
  const Chunks c = split_block(in, chunk, state.scalar_type());
  ScanResult out = in.erase                    ? walk_erasing(c, state)
                   : in.log_decay.size(3) == 1 ? walk(scalar_maps(c), state)
                                               : walk(vector_maps(c), state);
  if (c.bonus.defined())
    out.y = out.y + c.bonus;
  out.y = out.y.transpose(2, 3).flatten(1, 2).narrow(1, 0, in.q.size(1));  // [B,T,H,V]
  return out;
}

/// Tokens handled at once: enough to fill the device, few enough that intermediate values stay
/// small.
int64_t block_tokens(const ScanInputs& in, const Tensor& state, int64_t chunk) {
  const int64_t elements = in.q.is_cuda() ? int64_t{1} << 26 : int64_t{1} << 20;
  const int64_t B = state.size(0), H = state.size(1), K = state.size(2), V = state.size(3);
  if (in.factored_decay)
    return static_cast<int64_t>(std::bit_floor(
        static_cast<uint64_t>(std::clamp<int64_t>(elements / (B * H * K * V + 1), 1, 256))));
  const int64_t per_chunk = B * H * (chunk * std::max({chunk, K, V}) + K * V);
  return std::max<int64_t>(1, elements / (per_chunk + 1)) * chunk;
}

}  // namespace

ScanResult decay_scan_aten(const ScanInputs& in, const Tensor& state, int64_t chunk) {
  const int64_t T = in.q.size(1);
  if (T == 0)
    return {at::empty_like(in.v, at::MemoryFormat::Contiguous), state.clone()};
  const int64_t Q = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::min(chunk, T))));
  const int64_t length = block_tokens(in, state, Q);

  const auto advance = [Q, form = without_tensors(in),
                        type = in.v.scalar_type()](const std::vector<Tensor>& inputs) {
    const ScanInputs block = with_tensors(form, inputs);
    const ScanResult out = block.factored_decay ? factored_block(block, inputs.back())
                                                : matrix_block(block, inputs.back(), Q);
    return std::vector<Tensor>{out.y.to(type).contiguous(), out.state.contiguous()};
  };

  // Only what has a token axis is cut; split, unlike slices, has a backward pass linear in the
  // number of blocks.
  std::vector<std::vector<Tensor>> cut;
  visit_tensors(in, [&](const ScanField& field, const Tensor& x) {
    const bool has_tokens = field.axes.find('t') != field.axes.npos;
    cut.push_back(has_tokens ? x.split(length, 1) : std::vector<Tensor>{x});
  });
  std::vector<Tensor> ys;
  Tensor s = state;
  for (int64_t block = 0; block * length < T; ++block) {
    if (state.is_cpu())
      leave_if_overdue();
    std::vector<Tensor> inputs;
    for (const std::vector<Tensor>& pieces : cut)
      inputs.push_back(pieces.size() == 1 ? pieces[0] : pieces[block]);
    inputs.push_back(s);
    const std::vector<Tensor> out = recompute(advance, inputs);
    ys.push_back(out[0]);
    s = out[1];
  }
  return {ys.size() == 1 ? ys[0] : at::cat(ys, 1), s};
}

}  // namespace stuffed::kernels
