// What a model family asks of the recurrence, in words that no family owns.
#pragma once
#include <cstdint>

namespace stuffed {

/// What the decay of a head depends on.
enum class DecayForm {
  PerHead,     // [B,T,H,1]
  PerChannel,  // [B,T,H,K]
  Constant,    // [H,K], the same at every token
  Factored     // step [B,T,H] times rate [H,K]
};

/// What the numbers of a raw gate are: how a log decay is made of one, x, and of its channel's base.
enum class GateKind : int32_t {
  None,
  NegativeExp,  // -exp(x + base)
  Forget        // log f, f = base + (1 - base) sigmoid(x), 0 <= base < 1; and k = 1 - f
};

/// The terms of the recurrence that a family uses.
struct ScanTerms {
  DecayForm decay = DecayForm::PerHead;
  bool shares_keys = false;        // all heads have the same q and k
  bool has_v_scale = false;        // v is scaled where it enters the state
  bool has_bonus = false;          // y reads the state before its update
  bool has_erase = false;          // the delta rule
  GateKind gate = GateKind::None;  // of what the decay (and with Forget the key) is made
};

/// One layer's.
struct ScanWidths {
  int64_t heads = 0, key_width = 0, value_width = 0;  // H, K, V
};

}  // namespace stuffed
