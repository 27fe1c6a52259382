#include "stuffed/eval/export_paper.h"

#include <limits>
#include <map>

#include "stuffed/core/error.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/results.h"

namespace stuffed::eval {

namespace {

namespace fs = std::filesystem;

using Place = std::pair<int64_t, int64_t>;  // depth index, trial

std::string lines_of(const std::map<Place, io::json>& trials) {
  std::string lines;
  int64_t index = 0;
  for (const auto& [place, record] : trials) {
    nlohmann::ordered_json line;
    line["idx"] = fmt::format("{}", index++);
    line["prediction"] = record.at("prediction");
    line["ground_truth"] = record.at("passkey");
    line["relative_postion"] = record.at("depth");  // sic
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

}  // namespace

void export_paper(const fs::path& journal, const fs::path& folder, bool overwrite) {
  std::map<int64_t, std::map<Place, io::json>> lengths;
  const io::JournalEnd end = io::read_journal(journal, [&](const io::json& record, io::LinePlace) {
    if (record.contains("passkey"))
      lengths[record.at("length_tokens").get<int64_t>()][{
          record.at("depth_index").get<int64_t>(), record.at("trial").get<int64_t>()}] = record;
  });
  check(!end.empty && end.header.schema == "stuffed.passkey" && end.header.version == 1,
        Error::Kind::Input, "{}: holds no passkey results of version 1, but '{}' of version {}",
        journal.string(), end.header.schema, end.header.version);
  std::error_code error;
  fs::create_directories(folder / "passkey", error);
  check(!error, Error::Kind::Output, "{}: cannot be created: {}", (folder / "passkey").string(),
        error.message());
  std::map<fs::path, std::string> files;
  files[folder / "args.json"] = args_of(end.header.config).dump(4) + "\n";
  for (const auto& [length, trials] : lengths)
    files[folder / "passkey" / fmt::format("preds_{}.jsonl", length)] = lines_of(trials);
  io::OutputGuard guard;
  guard.reads("RESULTS", journal);
  for (const auto& [path, text] : files) {
    guard.writes("-o", path);
    io::check_text_place(path, text, overwrite);
  }
  for (const auto& [path, text] : files)
    io::write_text(path, text);
}

}  // namespace stuffed::eval
