// Results as a fit reads them: journals, and the cells of merged sweeps.
#pragma once
#include <map>

#include "stuffed/eval/fit.h"

namespace stuffed::eval::fitting {

struct Source {
  std::string name;  // the path; of a cell "PATH: CELL"
  io::json config = {};
  io::json facts = {};     // holds "state" and "training", if the journal is not too old
  std::string model = {};  // path or name
  std::map<std::string, io::json> summaries = {};  // records by key
};

/// All sources of one file.
/// Errors  Input if it is no finished journal of `schema`, nor a merged sweep of such
std::vector<Source> read_sources(const std::filesystem::path& path, const std::string& schema);

/// Errors  Input, naming the source, for what `read` throws about its fields
void explained(const Source& source, const std::function<void()>& read);

/// Settings in which they differ, objects by their fields. What differs from model to model, or
/// decides no more than how fast, is left out.
std::vector<std::string> settings_that_differ(const std::vector<Source>& sources);

}  // namespace stuffed::eval::fitting
