// What a checkpoint is, without running it.
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "stuffed/io/json.h"

namespace stuffed::eval {

/// What the two fits of arXiv:2410.07145 say of a state of `elements`, both in tokens (the paper's
/// K is 1,000). A fit that reaches 0 tokens is below the sizes it was made for, and says nothing.
struct PaperFits {
  std::optional<double> forget_tokens;  // training length from which a model learns to forget
  std::optional<double> recall_tokens;  // longest context with passkey accuracy above 95 %
  bool extrapolated;  // beyond the 12.9 M elements of the largest model the fits saw
};
PaperFits paper_fits(int64_t state_elements);

/// Family, layout and why; parameters, dtypes, shapes; tokenizer; hashes; state size by both rules;
/// the fits; how the folder's config was taken. `tokenizer` as in load_tokenizer, or empty for the
/// one in the model's folder. Errors Input as load_model's `gated_norm` as --gated-norm, or empty.
io::json inspect(const std::filesystem::path& model,
                 const std::string& tokenizer,
                 const std::string& gated_norm = "");

}  // namespace stuffed::eval
