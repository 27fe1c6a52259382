// The sidecar of state-stats: each document's arrays wait in a file of their own, so that a killed
// run goes on where its journal does; then all become one file.
#pragma once
#include <filesystem>

#include "state_observer.h"
#include "stuffed/io/sidecar.h"

namespace stuffed::eval {

class StateArrays {
 public:
  /// Errors  as Sidecar's
  StateArrays(std::filesystem::path path, const io::Journal& journal)
      : sidecar_(std::move(path), journal) {}

  /// Checks that the first `documents` are there, and forgets any other.
  /// Errors  Input naming the file that is missing
  void keep(int64_t documents) const;
  void write_document(int64_t document, const NamedTensors& arrays) const;
  NamedTensors read_document(int64_t document) const;
  /// Joins the documents along a new first axis; samples that a shorter one lacks are NaN. `more`
  /// is added as it is.
  void finish(int64_t documents,
              const NamedTensors& more,
              const std::map<std::string, std::string>& metadata) const;
  void remove_partial() const { sidecar_.remove_partial(); }
  const std::filesystem::path& path() const { return sidecar_.path(); }

 private:
  std::filesystem::path part(int64_t document) const;
  io::Sidecar sidecar_;
};

}  // namespace stuffed::eval
