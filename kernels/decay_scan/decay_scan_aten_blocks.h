// What the two ATen forms share: sums of log decays over runs of neighbouring tokens, and a block's
// inputs as a list.
#pragma once
#include <utility>
#include <vector>

#include "kernels/decay_scan/decay_scan.h"

namespace stuffed::kernels {

/// Log decays summed inside runs of w tokens. Long runs are joined from short neighbours by
/// addition alone; no difference of two sums is ever taken, so a weak decay beside a huge one keeps
/// its digits, -inf is a value like any other, and every exponent is <= 0.
struct Runs {
  Tensor before;  // [...,n,w,C]  from the run's start to the token, its own decay included unless
                  // it reads before the update
  Tensor after;   // [...,n,w,C]  from after the token to the run's end
  Tensor total;   // [...,n,1,C]
};

/// Runs of one token each. `log_decay` [...,Q,C], Q a power of two.
Runs single_tokens(const Tensor& log_decay, bool reads_before_update);
/// The earlier and the later run of each pair of neighbours.
std::pair<Runs, Runs> neighbours(const Runs& runs);
Runs join(const Runs& earlier, const Runs& later);

/// The first and the second half of each pair of runs: [...,n,w,C] -> two [...,n/2,w,C].
std::pair<Tensor, Tensor> pairs(const Tensor& runs);

/// Factors exp(log_decay) on a state, in two parts as StateDecay has them: a factor near 1
/// would be off by 3e-8 the same way every time, and a long stream adds that up.
class StateDecays {
 public:
  /// log_decay [B,n,...]: n steps, <= 0.
  explicit StateDecays(const Tensor& log_decay);

  /// exp(log_decay[:, i]) * state + insert
  Tensor advance(size_t i, const Tensor& state, const Tensor& insert) const;

 private:
  std::vector<Tensor> keep_, change_;
};

/// [B,T,H,C] or [B,T,H] -> [B,n,H,Q,C] in `type`, T filled up with zeros to a multiple of Q. A
/// filled token changes nothing: its decay is 1 and it inserts 0.
Tensor chunks(const Tensor& x, int64_t chunk, at::ScalarType type);

/// Which tensors there are, and all that is no tensor.
ScanInputs without_tensors(ScanInputs in);
/// The same form with these tensors, in the order of visit_tensors(); what follows them is ignored.
ScanInputs with_tensors(ScanInputs form, const std::vector<Tensor>& tensors);

/// One block of tokens by elementwise passes over its states: the form for factored decays, K * V
/// small.
ScanResult factored_block(const ScanInputs& in, const Tensor& state);

}  // namespace stuffed::kernels
