// Documents read and tokenised on a thread of their own, while the ones before them are measured.
#pragma once
#include <memory>
#include <optional>

#include "stuffed/io/token_source.h"

namespace stuffed::io {

/// What waits in memory takes up to `most_bytes`. A document that is larger than that is not read
/// before it is asked for; the first is read at once, as its size is not known.
class DocumentsAhead {
 public:
  static constexpr size_t kMostBytes = size_t{64} << 20;

  /// `source` is not owned. It is this object's until next() has returned nothing or thrown.
  explicit DocumentsAhead(TokenSource& source, size_t most_bytes = kMostBytes);
  /// Leaves off in the middle of a document, if need be.
  ~DocumentsAhead();
  DocumentsAhead(const DocumentsAhead&) = delete;
  DocumentsAhead& operator=(const DocumentsAhead&) = delete;

  /// As the source's: the same documents in the same order, and an error where it would come.
  std::optional<Document> next();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stuffed::io
