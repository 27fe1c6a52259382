// What a new RWKV begins with, as RWKV-LM makes it: shares of the previous token and decays that
// rise over the channels and change with the depth, orthogonal matrices, and outputs of zero.
#pragma once
#include <string>
#include <vector>

#include "stuffed/models/parameters.h"

namespace stuffed {

/// Where a layer stands.
struct RwkvDepth {
  RwkvDepth(int64_t layer, int64_t layers);
  double rising;   // 0 in the first layer, 1 in the last
  double falling;  // 1 in the first layer, almost 0 in the last
};

/// [D]: (c / D)^power of channel c.
Tensor rwkv_ramp(int64_t width, double power);
/// [A]: c / (A - 1), from 0 to 1.
Tensor rwkv_line(int64_t width);
/// time_decay of RWKV-5 and RWKV-6, [A]; the decay is exp(-exp(.)).
Tensor rwkv_new_decay(int64_t width, RwkvDepth depth);
/// Their bonus, [A].
Tensor rwkv_new_bonus(int64_t width, RwkvDepth depth);

/// Embedding, head, scale of the heads' norm, and the matrices that begin as zeros, which are alike
/// in RWKV-5, RWKV-6 and RWKV-7; undefined for any other parameter.
Tensor rwkv_new_weight(uint64_t seed,
                       const std::string& name,
                       const std::vector<int64_t>& shape,
                       int64_t layers);
/// All matrices of RWKV-5 and RWKV-6 as well.
Tensor rwkv_new_matrix(uint64_t seed,
                       const std::string& name,
                       const std::vector<int64_t>& shape,
                       Role role,
                       int64_t layers);

}  // namespace stuffed
