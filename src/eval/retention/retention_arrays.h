// The sidecar of a retention run: arrays per layer and head, one row per document, gathered so that
// a killed run goes on where its journal does.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "stuffed/core/tensor.h"
#include "stuffed/io/sidecar.h"

namespace stuffed::eval {

/// A document's arrays are a part of the sidecar until finish() joins them into its file. Without a
/// path they stay in memory.
class RetentionArrays {
 public:
  using Named = std::map<std::string, Tensor>;

  /// Errors  as Sidecar's
  RetentionArrays(std::filesystem::path path, const io::Journal& journal)
      : sidecar_(std::move(path), journal) {}

  /// Keeps those of the first `documents`, which the journal holds.
  /// Errors  Input if one is missing
  void keep(int64_t documents) const;
  void save(int64_t document, Named arrays);
  Named load(int64_t document) const;
  /// Writes each array as [documents,...], and those of all documents together as they are.
  void finish(int64_t documents, const Named& together) const;
  void remove_partial() const { sidecar_.remove_partial(); }

 private:
  std::filesystem::path part(int64_t document) const;
  io::Sidecar sidecar_;
  std::map<int64_t, Named> held_;  // without a path
};

}  // namespace stuffed::eval
