// What a run will take, before it begins.
#pragma once
#include <cstdint>

#include "stuffed/eval/retention.h"

namespace stuffed::eval {

/// Tokens that a document of so many targets takes, suffixes counted.
/// Errors  Usage for suffixes longer than what is read
int64_t tokens_to_feed(const RetentionOptions& options, int64_t targets);

}  // namespace stuffed::eval
