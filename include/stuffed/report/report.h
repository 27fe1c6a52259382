// Results as one page that people look at: HTML that needs no network and no other file.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace stuffed::report {

struct ReportOptions {
  std::string title = "Results";
  std::vector<std::string> labels =
      {};                      // names of the results, in order; the others' are their files'
  int64_t last_tokens = 1024;  // of the loss over the last k tokens; rounded up to whole buckets
  bool overwrite = false;      // a file that is no report of ours
};

struct Report {
  int64_t results = 0, unfinished = 0;     // cells of a merged sweep count one by one
  int64_t bytes = 0;                       // of the page
  std::vector<std::string> warnings = {};  // what the page lacks, a sentence each
};

/// One page of any journals: figures, their numbers as tables, intervals, and where each result
/// comes from. A folder stands for the journals in it. Journals that are not finished are drawn as
/// far as they are, and marked. Whatever a journal holds is shown as text, never as HTML.
///
/// Errors  Unsupported if the build has no library to draw with; Input if one of `results` is no
///         journal, or newer than this build; Usage if `page` is one of them; Output if it cannot
///         be written, or is there and is no report
Report write_report(const std::vector<std::filesystem::path>& results,
                    const std::filesystem::path& page,
                    const ReportOptions& options = {});

}  // namespace stuffed::report
