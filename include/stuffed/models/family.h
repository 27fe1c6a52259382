// A model family is one row: how its checkpoints are recognised and read, what it asks of the
// recurrence, and the sizes it is published in. Whatever lists families reads the rows.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/decay_scan/decay_scan_terms.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed {

struct Checkpoint;
struct ConfigTable;

/// What recognised a checkpoint: which layout, and by which tensors.
struct Recognition {
  std::string layout;
  std::string why;
};

/// A published size, or "tiny", which runs in milliseconds.
struct ModelSize {
  std::string_view name;  // "1.3b"
  int64_t d_model, layers, heads, vocab_rows;
  int64_t mlp_width = 0;
  int64_t key_width = 0;  // where it is not d_model / heads
  int64_t rank = 0;       // of low-rank products: what the family scales its ranks by
};

/// Shapes by tensor name, as far as recognise() and make() look at them, and the config beside them.
struct Outline {
  std::map<std::string, std::vector<int64_t>> shapes;
  io::json config = {};
};

/// A key of the config from which a new model is made.
struct NewKey {
  std::string_view name;
  std::string_view otherwise = "";  // what it is without the key, for --help; "": it must be given
};

/// One model family, registered by a line FAMILY(name) in families.inc, which declares
/// `name##_family`.
struct Family {
  const char* name;
  /// Null if the tensors are not this family's. Throws Input for a known relative that must be
  /// rejected.
  std::optional<Recognition> (*recognise)(const Checkpoint&);
  /// The keys of the kind of config that this checkpoint has.
  const ConfigTable& (*config_table)(const Checkpoint&, const Recognition&);
  /// Configuration checked against the shapes; parameters still empty.
  std::unique_ptr<RecurrentLM> (*make)(const Checkpoint&, const Recognition&);
  /// Where each canonical tensor comes from in this layout.
  WeightMap (*weight_map)(const Checkpoint&, const Recognition&);
  /// A new, untrained model of the given config.json; null if the family cannot be trained from
  /// scratch. Throws Usage for a key it does not know or cannot honour.
  std::unique_ptr<RecurrentLM> (*make_new)(const io::json& config) = nullptr;
  std::span<const NewKey> new_keys = {};  // that decide what a new model is, for --help

  ScanTerms terms;    // of the recurrence; what a token costs follows from them
  ScanWidths widths;  // of its model of about 1.5B parameters
  std::span<const ModelSize> sizes;
  Outline (*outline)(const ModelSize& size);
  bool has_gated_norm_choice = false;  // reads Reading::gated_norm
};

/// In the order in which they are asked whether a checkpoint is theirs.
const std::vector<const Family*>& families();

/// Their names, sorted; only those that make_new() if `new_only`.
std::vector<std::string> family_names(bool new_only = false);

/// Errors  Usage for an unknown name, listing the known ones
const Family& find_family(std::string_view name);

}  // namespace stuffed
