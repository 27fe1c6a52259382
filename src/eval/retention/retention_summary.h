// From tensors to the records of a retention run: one per document, and what they say together.
#pragma once
#include "retention_arrays.h"
#include "stuffed/eval/retention.h"

namespace stuffed::eval {

/// [L,H,S] int64, tokens each head lived in each interval -> [L,H] f32: the upper median over S
/// plus one; NaN where it is not below `followed`, hence censored, or where one is -1, not finite.
Tensor half_lives(const Tensor& lived, int64_t followed);

/// {"starts","followed_tokens","by_layer":[{"least_tokens","median_tokens","most_tokens",
/// "censored_heads"}]} of half-lives [L,H], over the heads; null where that one is censored.
io::json half_life_json(const Tensor& half_life, int64_t starts, int64_t followed);

/// Numbers of a tensor [..] or [..][..] as nested arrays; null where not finite.
io::json numbers(const Tensor& tensor);

/// Of the array `name`, [L,H] f32: the upper median over documents, censored ones counting as
/// longest; NaN: censored. Undefined if a document lacks it.
Tensor median_half_life(const RetentionArrays& arrays, int64_t documents, const std::string& name);

/// Over documents: mean and standard error of effrem, mean weights and alphas; of the half-lives
/// [L,H] among `medians`, what half_life_json says.
io::json summarise_retention(const io::Journal& journal,
                             const RetentionArrays::Named& medians,
                             const RetentionOptions& options);

}  // namespace stuffed::eval
