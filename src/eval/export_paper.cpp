#include "stuffed/eval/export_paper.h"

#include <limits>
#include <map>
#include <set>

#include "export_files.h"
#include "stuffed/core/error.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/results.h"

namespace stuffed::eval {

namespace {

namespace fs = std::filesystem;

using Place = std::pair<int64_t, int64_t>;  // depth index, trial
using Lengths = std::map<int64_t, std::map<Place, io::json>>;

/// Where the needle of a record is, 0 to 1.
double real_depth(const io::json& record) {
  const int64_t blocks = record.at("blocks");
  return record.at("position_blocks").get<double>() /
         static_cast<double>(std::max<int64_t>(1, blocks - 1));
}

std::string lines_of(const std::map<Place, io::json>& trials, const io::json& config) {
  const bool as_asked = config.at("protocol") == "paper-code" && config.at("grid") == "per-length";
  std::string lines;
  for (const auto& [place, record] : trials) {
    nlohmann::ordered_json line;
    line["idx"] =
        fmt::format("{}", place.first * config.at("trials").get<int64_t>() + place.second);
    line["prediction"] = record.at("prediction");
    line["ground_truth"] = record.at("passkey");
    line["relative_postion"] =  // sic
        as_asked ? record.at("depth").get<double>() : real_depth(record);
    lines += line.dump() + "\n";
  }
  return lines;
}

io::json args_of(const io::json& config) {
  int64_t shortest = std::numeric_limits<int64_t>::max(), longest = 0;
  for (const auto& length : config.at("lengths_tokens")) {
    shortest = std::min(shortest, length.get<int64_t>());
    longest = std::max(longest, length.get<int64_t>());
  }
  return {{"model_name", config.at("model").at("family")},
          {"min_len", shortest / 1024},
          {"max_len", longest / 1024},
          {"n_depths", config.at("depths")},
          {"n_samples", config.at("depths").get<int64_t>() * config.at("trials").get<int64_t>()},
          {"use_bos", config.at("use_bos").get<bool>() ? 1 : 0},
          {"add_prefix", config.at("add_prefix").get<bool>() ? 1 : 0},
          {"dtype", config.at("dtype")}};
}

/// Says how many trials are missing, if any.
void warn_of_missing(const ReadJournal& journal, const Lengths& lengths, PaperFiles& files) {
  const io::json& config = journal.end.header.config;
  const int64_t each = config.at("depths").get<int64_t>() * config.at("trials").get<int64_t>();
  std::set<int64_t> asked;
  for (const auto& length : config.at("lengths_tokens"))
    asked.insert(length.get<int64_t>());
  int64_t found = 0;
  for (const auto& [length, trials] : lengths)
    found += static_cast<int64_t>(trials.size());
  const int64_t wanted = each * static_cast<int64_t>(asked.size());
  if (found < wanted || !journal.end.finished)
    files.warnings.push_back(
        fmt::format("{}: is not finished: {} of {} trials are there, and the files hold these "
                    "alone; the run's command goes on with it",
                    journal.path.string(), found, wanted));
}

void export_passkey(const ReadJournal& journal,
                    const fs::path& folder,
                    const PaperOptions& options,
                    PaperFiles& files) {
  Lengths lengths;
  for (const auto& [key, record] : journal.records)
    if (record.contains("passkey"))
      lengths[record.at("length_tokens").get<int64_t>()][{
          record.at("depth_index").get<int64_t>(), record.at("trial").get<int64_t>()}] = record;
  const io::json& config = journal.end.header.config;
  warn_of_missing(journal, lengths, files);
  make_folder(folder / "passkey");
  write_export(journal, folder / "args.json", args_of(config).dump(4) + "\n", options, files);
  for (const auto& [length, trials] : lengths)
    write_export(journal, folder / "passkey" / fmt::format("preds_{}.jsonl", length),
                 lines_of(trials, config), options, files);
}

}  // namespace

void write_export(const ReadJournal& journal,
                  const fs::path& path,
                  const std::string& text,
                  const PaperOptions& options,
                  PaperFiles& files) {
  io::OutputGuard guard;
  guard.reads("RESULTS", journal.path);
  guard.writes("-o", path);
  io::check_text_place(path, text, options.overwrite);
  io::write_text(path, text);
  files.written.push_back(path);
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, Error::Kind::Output, "{}: cannot be created: {}", folder.string(), error.message());
}

PaperFiles export_paper(const fs::path& journal,
                        const fs::path& folder,
                        const PaperOptions& options) {
  ReadJournal read{.path = journal, .end = {}, .records = {}};
  read.end = io::read_journal(journal, [&](const io::json& record, io::LinePlace) {
    read.records[record.at("key").get<std::string>()] = record;
  });
  const io::RunHeader& header = read.end.header;
  const bool known =
      !read.end.empty && header.version == 1 &&
      (header.schema == "stuffed.passkey" || header.schema == "stuffed.ppl_by_length");
  check(known, Error::Kind::Input,
        "{}: holds no passkey or ppl-by-length results of version 1, but '{}' of version {}",
        journal.string(), header.schema, header.version);
  PaperFiles files;
  if (header.schema == "stuffed.passkey")
    export_passkey(read, folder, options, files);
  else
    export_losses(read, folder, options, files);
  return files;
}

}  // namespace stuffed::eval
