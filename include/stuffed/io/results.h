// The journal of a run: a header line, one line per measurement, an end line (JSON Lines).
// Append-only, flushed line by line; re-opening it resumes.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "stuffed/io/json.h"

namespace stuffed::io {

/// Schema and configuration decide what a resumed run must equal; provenance is what is merely
/// recorded.
struct RunHeader {
  std::string schema;  // "stuffed.ppl_by_length"
  int version = 1;     // raised when a field is renamed, removed or changes its unit
  json config;      // everything that determines the records, hashes of model, tokenizer and data
                    // included
  json provenance;  // commit, command line, device, UTC start, ...
};

class Results {
 public:
  /// Creates the file, or resumes it: equal schema, version and config are required, and the error
  /// names the first field that differs. A torn last line is cut off; a changed commit leaves a
  /// `resumed` line. `overwrite` starts anew. Errors  Output if the place is not writable; Input if
  /// the file there is not a journal; Usage if it is another run's
  static Results open(const std::filesystem::path& path,
                      const RunHeader& header,
                      bool overwrite = false);
  ~Results();
  Results(Results&&) noexcept;
  Results& operator=(Results&&) noexcept;

  bool done(std::string_view key) const;
  /// The record of `key`, as it was appended (in this run or before). Throws Internal if there is
  /// none.
  const json& record(std::string_view key) const;
  /// One flushed line. A non-finite number becomes null, and is refused (Internal) unless the
  /// record says "finite": false.
  void append(std::string_view key, const json& fields);
  /// The end line. A finished journal stays as it is when its command runs again.
  void finish(const json& fields = json::object());
  bool finished() const;
  int64_t size() const;  // records

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stuffed::io
