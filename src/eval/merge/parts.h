// What merging the results of the several commands shares.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "stuffed/eval/merge.h"
#include "stuffed/io/journal.h"

namespace stuffed::eval::merging {

struct Part {
  std::filesystem::path path;
  io::JournalHeader header;
  std::map<std::string, io::json> records;  // by key
  io::json end = {};                        // its end line

  io::json config(const char* field) const { return header.config.value(field, io::json()); }
};

/// Where a document is.
struct Place {
  const Part* part;
  int64_t row;  // among the part's documents, as in its arrays
};

/// The documents of all parts by number.
using Places = std::map<int64_t, Place>;

/// A document's record without its key, as it is appended.
io::json fields_of(const io::json& record);

/// The arrays of a part, in the file that its journal names.
/// Errors  Input if it is missing
std::filesystem::path arrays_of(const Part& part, const std::string& name);

void merge_losses(const Places& places, io::Journal& journal, const std::filesystem::path& sidecar);
void merge_state_stats(const Places& places,
                       io::Journal& journal,
                       const std::filesystem::path& sidecar);
void merge_retention(const Places& places,
                     io::Journal& journal,
                     const std::filesystem::path& sidecar);
/// Summaries of trials whose records are in `results`.
void merge_passkey(const std::vector<Part>& parts, io::Journal& journal);
void merge_retrieval(const std::vector<Part>& parts, io::Journal& journal);

/// What the parts' summaries say of the whole source, and how many documents there are now.
void finish_summary(const Places& places, io::json& summary);

}  // namespace stuffed::eval::merging
