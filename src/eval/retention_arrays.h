// The sidecar of a retention run: arrays per layer and head, one row per document, gathered so that
// a killed run goes on where its journal does.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "stuffed/core/tensor.h"

namespace stuffed::eval {

/// A document's arrays lie in PATH.document-<i>.partial until finish() joins them into PATH.
/// Without a path they stay in memory.
class RetentionArrays {
 public:
  using Named = std::map<std::string, Tensor>;

  explicit RetentionArrays(std::filesystem::path path) : path_(std::move(path)) {}

  /// Keeps those of the first `documents`, which the journal holds.
  /// Errors  Input if one is missing
  void keep(int64_t documents) const;
  void save(int64_t document, Named arrays);
  Named load(int64_t document) const;
  /// Writes each array as [documents,...], and those of all documents together as they are.
  void finish(int64_t documents, const Named& together) const;
  void remove_partial(int64_t from = 0) const;

 private:
  std::filesystem::path partial(int64_t document) const;
  std::filesystem::path path_;
  std::map<int64_t, Named> held_;  // without a path
};

}  // namespace stuffed::eval
