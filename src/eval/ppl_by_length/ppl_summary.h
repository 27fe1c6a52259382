// What the documents' records say together.
#pragma once
#include "stuffed/eval/ppl_by_length.h"

namespace stuffed::eval {

/// Per bucket: mean nll over all targets, standard error over documents, perplexity, bits per byte,
/// running mean.
io::json summarise(const io::Journal& journal, const PplByLengthOptions& options);

}  // namespace stuffed::eval
