// An operation is one row: its name, its forms, the cases on which they are compared. Whatever lists
// operations or forms reads the rows, which src/ops/ops.inc lists.
#pragma once
#include <atomic>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stuffed/core/tensor.h"
#include "stuffed/ops/impl.h"

namespace stuffed::ops {

/// One call of an operation, its inputs drawn and kept.
struct OpCase {
  std::string name;     // of its shapes and switches: "rms norm, 5 rows of 768"
  at::ScalarType type;  // of its activations
  /// Whether this form takes the inputs on this device.
  std::function<bool(Impl form, at::Device device)> takes;
  /// What it makes of them: every result, in the order of the contract.
  std::function<std::vector<Tensor>(Impl form, at::Device device)> run;
  /// What the reference makes of the same inputs in f64, on the CPU.
  std::function<std::vector<Tensor>()> exact;
};

struct Op {
  std::string_view name;           // in --impl and --op
  std::string_view what;           // for lists
  std::vector<Impl> forms;         // in the order in which Auto asks them; Reference is last
  std::vector<OpCase> (*cases)();  // null: `verify` has its own
  mutable std::atomic<Impl> forced = Impl::Auto;  // by Forcing

  bool has(Impl form) const;
};

/// In the order in which they are listed.
const std::vector<const Op*>& all_ops();

/// Errors  Usage for an unknown name, listing the known ones
const Op& find_op(std::string_view name);

/// The forms asked for: of the recurrence, which is handed to it, and of the other operations.
struct Impls {
  Impl scan = Impl::Auto;
  std::vector<std::pair<const Op*, Impl>> others = {};  // in the order of the rows

  /// "auto" or the recurrence's alone; with others "scan=tiled,norm=reference". Equal choices have
  /// equal names.
  std::string name() const;
};

/// One form, the recurrence's; or OP=FORM, joined by commas.
/// Errors  Usage for an unknown operation or form, or one given twice; Unsupported for a form that
///         the operation does not have, listing those it has
Impls parse_impls(std::string_view text);

/// While one lives, operations run the forms asked for and nothing else. One at a time.
class Forcing {
 public:
  explicit Forcing(const Impls& impls);
  ~Forcing();
  Forcing(const Forcing&) = delete;
  Forcing& operator=(const Forcing&) = delete;
};

}  // namespace stuffed::ops
