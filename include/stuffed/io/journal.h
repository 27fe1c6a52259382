// The journal of a run: a header line, one line per measurement, an end line (JSON Lines).
// Append-only, flushed line by line; re-opening it resumes.
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stuffed/io/json.h"

namespace stuffed::io {

/// Schema and configuration decide what a resumed run must equal; provenance is what is merely
/// recorded.
struct JournalHeader {
  std::string schema;  // "stuffed.ppl_by_length"
  int version = 1;     // raised when a field is renamed, removed or changes its unit
  json config;      // everything that determines the records, hashes of model, tokenizer and data
                    // included
  json provenance;  // commit, command line, device, UTC start, ...
  /// For a run that is resumed: throws Input, or nlohmann's json::exception, if a record is not
  /// such as this command writes. Called before anything in the file is changed.
  std::function<void(const json& record)> check_record = {};
};

/// Which run a journal holds: what the files beside it are tied to.
struct JournalIdentity {
  std::string id;         // drawn when the journal was begun; "" in journals older than that
  std::string signature;  // SHA-256 of schema, version and config: equal for equal commands
  std::string schema;
  std::filesystem::path journal;  // empty if it is no file (standard output, a pipe)
};
JournalIdentity identify(const std::filesystem::path& journal, const JournalHeader& header);

/// Where a whole line lies in its file, without its newline.
struct LinePlace {
  int64_t offset_bytes = 0;
  int64_t bytes = 0;
};

/// What read_journal() found.
struct JournalEnd {
  JournalHeader header;
  std::string commit;       // of the last process that wrote records
  int64_t whole_bytes = 0;  // up to and including the last newline; a torn last line lies behind it
  std::string header_hash;  // SHA-256 of the header line
  bool finished = false;
  bool empty = false;  // not even a whole header line: nothing was measured
};

/// Reads a journal line by line and hands over each record (not header, resumed and end lines).
/// Errors  Input, naming file and line, if it is unreadable or not a journal
JournalEnd read_journal(const std::filesystem::path& path,
                        const std::function<void(const json& record, LinePlace place)>& on_record);

/// In the metadata of a file at Journal::state_path(): what has it not is no one's to remove.
inline constexpr const char* kStateKey = "stuffed.checkpoint";

class Journal {
 public:
  /// Creates the file (and the folders above it), or resumes it: equal schema, version and config
  /// are required unless nothing was recorded or kept, and the error names the first field that
  /// differs. A torn last line is cut off; a changed commit leaves a `resumed` line. `overwrite`
  /// starts anew.
  /// "-" is standard output, which like any pipe or device cannot be resumed; of a named pipe a
  /// reader is waited for.
  ///
  /// Errors  Output if the place is not writable or another process is writing it; Input if the
  ///         file there is not a journal (it is then left alone, even with `overwrite`); Usage if
  ///         it is another run's or, with `overwrite`, another command's
  static Journal open(const std::filesystem::path& path,
                      const JournalHeader& header,
                      bool overwrite = false);
  /// As open(), but what the same command recorded before is thrown away.
  /// Errors  Usage if another run's is there, unless `overwrite` is given
  static Journal open_anew(const std::filesystem::path& path,
                           const JournalHeader& header,
                           bool overwrite = false);
  ~Journal();
  Journal(Journal&&) noexcept;
  Journal& operator=(Journal&&) noexcept;

  bool done(std::string_view key) const;
  /// Those that begin with `prefix`, in the order of the alphabet.
  std::vector<std::string> keys(std::string_view prefix) const;
  /// The record of `key`, as it was appended (in this run or before). Throws Internal if there is
  /// none.
  json record(std::string_view key) const;
  /// One line, on the disk when this returns. A non-finite number becomes null, and is refused
  /// (Internal) unless the record says "finite": false. If the line cannot be written whole, the
  /// file is cut back to the line before.
  /// Errors  Output
  void append(std::string_view key, const json& fields);
  /// The end line. A finished journal stays as it is when its command runs again.
  void finish(const json& fields = json::object());
  bool finished() const;
  int64_t size() const;  // records
  /// SHA-256 of the header line: tells this run's journal from any other's.
  const std::string& header_hash() const;
  /// Where a run that is stopped in the middle of a record keeps what it needs to go on:
  /// OUT.jsonl.state. Empty if the results are no file.
  std::filesystem::path state_path() const;
  const JournalIdentity& identity() const;
  /// The run whose records were thrown away when this one began in its file, if there was one.
  const std::optional<JournalIdentity>& replaced() const;

 private:
  struct Impl;
  explicit Journal(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace stuffed::io
