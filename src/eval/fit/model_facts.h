// What a fit must know of a model beside its results.
#pragma once
#include <optional>

#include "stuffed/eval/fit.h"

namespace stuffed::eval::fitting {

/// Elements of one sequence's state.
struct StateSize {
  int64_t recurrence = 0;
  int64_t convolution = 0;  // W-1 columns
  int64_t shift = 0;
  int64_t convolution_width = 0;  // W; 0: it has none

  int64_t elements(StateRule rule) const;
};

struct ModelFacts {
  StateSize state = {};
  std::optional<int64_t> train_len_tokens = {};
  std::optional<uint64_t> seed = {};
};

/// From what facts_of_model() recorded, or where a journal is older than that from the model itself.
/// `facts` is what holds "state" and "training"; `model` names the model ("": unknown), `sha256` is
/// its hash, `result` the journal, for messages.
/// Errors  Input if neither says
ModelFacts read_facts(const io::json& facts,
                      const std::string& model,
                      const std::string& sha256,
                      const std::string& result);

}  // namespace stuffed::eval::fitting
