#include "stuffed/sweep/folder.h"

#include <algorithm>

#include "stuffed/core/error.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/journal_ends.h"

namespace stuffed::sweep {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPlan = "sweep.json";

constexpr std::string_view kAsksForFinite = "--fail-nonfinite";

bool asks_for_finite(const std::vector<std::string>& words) {
  return std::ranges::any_of(
      words, [](const std::string& word) { return word.starts_with(kAsksForFinite); });
}

/// Of a command line: what decides the records, as far as words can tell.
std::vector<std::string> deciding(const std::vector<std::string>& words) {
  std::vector<std::string> kept;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const bool has_value = word == "-o" || word == "--output";
    const bool changes_nothing = word.starts_with("--threads=") ||
                                 word.starts_with("--save-every=") ||
                                 word.starts_with(kAsksForFinite);
    if (has_value)
      ++i;
    else if (!changes_nothing)
      kept.push_back(word);
  }
  return kept;
}

}  // namespace

Folder::Folder(fs::path path) : path_(std::move(path)) {
  std::error_code error;
  check(!fs::exists(path_, error) || fs::is_directory(path_, error), Error::Kind::Output,
        "{}: exists and is not a folder; choose another", path_.string());
  const fs::path plan = path_ / kPlan;
  if (!fs::exists(plan, error))
    return;
  const io::json found = io::read_json(plan);
  check(found.is_object() && found.value("schema", io::json()) == kSweepSchema, Error::Kind::Input,
        "{}: is not the plan of a sweep, and is left as it is; choose another folder",
        plan.string());
}

Job Folder::job(const Cell& cell) const {
  return {.name = cell.name,
          .arguments = cell.arguments(path_),
          .model_key = cell.model_key(),
          .log = path_ / (cell.name + ".log"),
          .results = path_ / cell.results()};
}

bool Folder::is_done(const Cell& cell) const {
  const fs::path results = path_ / cell.results();
  std::error_code error;
  if (!fs::is_regular_file(results, error) || fs::exists(error_file(cell), error))
    return false;  // a run that failed can have finished its journal: --fail-nonfinite
  try {
    const io::JournalEnd end = io::look_into_journal(results);
    const auto was = end.header.provenance.at("command_line").get<std::vector<std::string>>();
    std::vector<std::string> is = cell.arguments(path_);
    is.insert(is.begin(), was.empty() ? "" : was.front());
    const bool is_asked_anew = asks_for_finite(is) && !asks_for_finite(was);
    return end.finished && deciding(was) == deciding(is) && !is_asked_anew;
  } catch (const std::exception&) {  // its command will say what is wrong with it
    return false;
  }
}

fs::path Folder::error_file(const Cell& cell) const {
  return path_ / (cell.name + ".error.json");
}

fs::path Folder::time_file(const Cell& cell) const {
  return path_ / (cell.name + ".time.json");
}

std::optional<double> Folder::seconds(const Cell& cell) const {
  std::error_code ignored;
  if (!fs::is_regular_file(time_file(cell), ignored))
    return {};
  try {
    const io::json found = io::read_json(time_file(cell));
    const double seconds = found.at("seconds");
    return seconds > 0 ? std::optional(seconds) : std::nullopt;
  } catch (const std::exception&) {  // of an estimate only
    return {};
  }
}

void Folder::record(const Cell& cell, const Outcome& outcome) const {
  std::error_code ignored;
  if (outcome.exit_code == 0 && outcome.is_whole)
    io::write_text(time_file(cell),
                   io::json({{"name", cell.name}, {"seconds", outcome.seconds}}).dump() + "\n");
  if (outcome.exit_code == 0)
    fs::remove(error_file(cell), ignored);
  else
    io::write_text(error_file(cell),
                   io::json({{"name", cell.name},
                             {"exit_code", outcome.exit_code},
                             {"error", outcome.error},
                             {"arguments", cell.arguments(path_)}})
                           .dump(2, ' ', false, io::json::error_handler_t::replace) +
                       "\n");
}

io::json Folder::status_of(const Cell& cell) const {
  io::json status = cell.as_json();
  status["status"] = "planned";
  std::error_code error;
  if (fs::is_regular_file(error_file(cell), error)) {
    const io::json found = io::read_json(error_file(cell));
    status["status"] = "failed";
    for (const char* field : {"exit_code", "error"})
      status[field] = found.is_object() ? found.value(field, io::json()) : io::json();
  } else if (is_done(cell)) {
    status["status"] = "done";
  }
  return status;
}

void Folder::write_plan(const std::vector<Cell>& cells) const {
  std::error_code error;
  fs::create_directories(path_, error);
  check(fs::is_directory(path_), Error::Kind::Output, "{}: cannot be created: {}", path_.string(),
        error.message());
  io::json plan = {
      {"schema", kSweepSchema}, {"version", kSweepVersion}, {"cells", io::json::array()}};
  for (const Cell& cell : cells)
    plan["cells"].push_back(status_of(cell));
  io::write_text(path_ / kPlan,
                 plan.dump(1, ' ', false, io::json::error_handler_t::replace) + "\n");
}

}  // namespace stuffed::sweep
