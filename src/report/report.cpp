#include "stuffed/report/report.h"

#include <algorithm>

#include "assets.h"
#include "sections.h"
#include "stuffed/core/error.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/regular_file.h"

namespace stuffed::report {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kOurs = "<meta name=\"generator\" content=\"stuffed report ";

void check_assets() {
  check(
      !assets().bokeh.empty() && !assets().bokeh_api.empty(), Error::Kind::Unsupported,
      "this build has nothing to draw with: bokeh.min.js and bokeh-api.min.js were not found when "
      "it was configured; run scripts/setup (it installs the Python package bokeh of "
      "third_party/requirements.txt), or give cmake -DSTUFFED_BOKEH=/path/to/site-packages/bokeh, "
      "and build again");
}

/// A page that was made before may be made anew; whatever else is there is somebody's.
void check_place(const fs::path& page, bool overwrite) {
  std::error_code error;
  if (overwrite || !fs::exists(page, error))
    return;
  const bool is_ours = fs::is_regular_file(page, error) &&
                       io::read_regular_file(page).substr(0, 4096).find(kOurs) != std::string::npos;
  check(is_ours, Error::Kind::Output,
        "{}: exists and is not a report; choose another file, or give --overwrite", page.string());
}

Page page_of(const std::vector<Run>& runs, const ReportOptions& options) {
  Page page;
  add_overview(page, runs);
  add_losses(page, of_schema(runs, "stuffed.ppl_by_length"), options.last_tokens);
  add_mitigated_losses(page, of_schema(runs, "stuffed.ppl_by_length"));
  add_passkeys(page, of_schema(runs, "stuffed.passkey"));
  add_retrieval(page, of_schema(runs, "stuffed.retrieval"));
  add_states(page, of_schema(runs, "stuffed.state_stats"));
  add_retention(page, of_schema(runs, "stuffed.retention"));
  add_fits(page, of_schema(runs, "stuffed.fit"));
  add_training(page, of_schema(runs, "stuffed.train"));
  add_checks(page, of_schema(runs, "stuffed.verify"), of_schema(runs, "stuffed.bench"));
  add_provenance(page, runs);
  return page;
}

}  // namespace

Report write_report(const std::vector<fs::path>& results,
                    const fs::path& page,
                    const ReportOptions& options) {
  check_assets();
  check(page != "-", Error::Kind::Usage, "-o -: a file is needed; name one");
  const std::vector<Run> runs = read_runs(results, options.labels);
  io::OutputGuard guard;
  for (const Run& run : runs) {
    guard.reads("RESULTS", run.path);
    if (!run.arrays.empty())
      guard.reads("RESULTS", run.arrays);
  }
  guard.writes("-o", page);
  check_place(page, options.overwrite);
  const Page made = page_of(runs, options);
  const std::string html = made.html(options.title);
  io::write_text(page, html);
  return {.results = std::ssize(runs),
          .unfinished = std::ranges::count(runs, false, &Run::finished),
          .bytes = std::ssize(html),
          .warnings = made.warnings()};
}

}  // namespace stuffed::report
