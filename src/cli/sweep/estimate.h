// What a cell would take, told without loading its model.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace stuffed::cli {

struct Estimate {
  int64_t tokens = 0;        // to feed
  int64_t memory_bytes = 0;  // at most, about
  double flops = 0;
};

/// Documents of one source.
struct DocumentCount {
  int64_t documents = 0, targets = 0, longest = 0;
};

class Estimates {
 public:
  /// Of a command with its options; nothing where it cannot be told (train, verify, bench). A source
  /// is read and tokenised to its end, once for all cells that have it. Memory is weights, states,
  /// the activations of a segment, a block of logits and the program itself.
  /// Errors  Input for models and data that cannot be read; Usage
  std::optional<Estimate> of(const std::string& command, const std::vector<std::string>& arguments);

 private:
  std::map<std::string, DocumentCount> counted_;  // by the source's options
};

}  // namespace stuffed::cli
