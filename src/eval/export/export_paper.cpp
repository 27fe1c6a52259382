#include "stuffed/eval/export_paper.h"

#include <map>
#include <set>

#include "export_files.h"
#include "export_folder.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval {

namespace {

namespace fs = std::filesystem;

using Place = std::pair<int64_t, int64_t>;                        // depth index, trial
using Lengths = std::map<int64_t, std::map<Place, std::string>>;  // lines by tokens and place

/// What the header says of a passkey run.
struct Asked {
  std::string family, dtype;
  std::set<int64_t> lengths_tokens;
  int64_t depths = 0, trials = 0;
  bool use_bos = false, add_prefix = false;
  bool depth_as_asked = false;  // the published code's own grid: it writes the depth asked for

  int64_t trials_of_length() const { return depths * trials; }
};

/// Errors  as io::read_integer()
Asked read_config(const io::json& config) {
  constexpr int64_t kMost = int64_t{1} << 24;  // as many prompts as passkey takes
  Asked asked;
  asked.family = io::read_text(config.at("model"), "family");
  asked.dtype = io::read_text(config, "dtype");
  asked.depths = io::read_integer(config, "depths", 1, kMost);
  asked.trials = io::read_integer(config, "trials", 1, kMost);
  asked.use_bos = io::read_flag(config, "use_bos");
  asked.add_prefix = io::read_flag(config, "add_prefix");
  const std::string protocol = io::read_text(config, "protocol"),
                    grid = io::read_text(config, "grid");
  asked.depth_as_asked = protocol == "paper-code" && grid == "per-length";
  for (const int64_t length : io::read_integers(config, "lengths_tokens", 1))
    asked.lengths_tokens.insert(length);
  check(!asked.lengths_tokens.empty(), Error::Kind::Input, "lengths_tokens has no elements");
  return asked;
}

/// Where the needle of a record is, 0 to 1.
double real_depth(const io::json& record) {
  const int64_t blocks = io::read_integer(record, "blocks", 1);
  return static_cast<double>(io::read_integer(record, "position_blocks", 0, blocks - 1)) /
         static_cast<double>(std::max<int64_t>(1, blocks - 1));
}

double asked_depth(const io::json& record) {
  io::check_number(record, "depth");
  const double depth = record.at("depth").is_null() ? -1 : record.at("depth").get<double>();
  check(depth >= 0 && depth <= 1, Error::Kind::Input, "depth is {}, expected 0 to 1",
        record.at("depth").dump());
  return depth;
}

/// Errors  as io::read_integer()
std::string line_of(const Place& place, const io::json& record, const Asked& asked) {
  nlohmann::ordered_json line;
  line["idx"] = fmt::format("{}", place.first * asked.trials + place.second);
  line["prediction"] = io::read_text(record, "prediction");
  line["ground_truth"] = io::read_text(record, "passkey");
  line["relative_postion"] =
      asked.depth_as_asked ? asked_depth(record) : real_depth(record);  // sic
  return line.dump() + "\n";
}

/// The lines of every trial in the journal.
Lengths read_trials(const ReadJournal& journal, const Asked& asked) {
  Lengths lengths;
  for (const auto& [key, record] : journal.records)
    explained(journal, fmt::format("the record '{}'", key), [&] {
      check_passkey_record(record, asked.depths);
      if (key.starts_with("summary"))
        return;
      const int64_t length = io::read_integer(record, "length_tokens", 1);
      check(asked.lengths_tokens.contains(length), Error::Kind::Input,
            "length_tokens is {}, which the run was not asked for", length);
      const Place place = {io::read_integer(record, "depth_index", 0, asked.depths - 1),
                           io::read_integer(record, "trial", 0, asked.trials - 1)};
      lengths[length][place] = line_of(place, record, asked);
    });
  return lengths;
}

io::json args_of(const Asked& asked) {
  return {{"model_name", asked.family},
          {"min_len", *asked.lengths_tokens.begin() / 1024},
          {"max_len", *asked.lengths_tokens.rbegin() / 1024},
          {"n_depths", asked.depths},
          {"n_samples", asked.trials_of_length()},
          {"use_bos", asked.use_bos ? 1 : 0},
          {"add_prefix", asked.add_prefix ? 1 : 0},
          {"dtype", asked.dtype}};
}

/// Says how many trials are missing, if any.
void warn_of_missing(const ReadJournal& journal,
                     const Asked& asked,
                     const Lengths& lengths,
                     PaperFiles& files) {
  int64_t found = 0;
  for (const auto& [length, trials] : lengths)
    found += static_cast<int64_t>(trials.size());
  const int64_t wanted =
      asked.trials_of_length() * static_cast<int64_t>(asked.lengths_tokens.size());
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
  Asked asked;
  explained(journal, "line 1", [&] { asked = read_config(journal.end.header.config); });
  const Lengths lengths = read_trials(journal, asked);
  check_finished(journal.path, journal.end.finished, options.partial);
  warn_of_missing(journal, asked, lengths, files);
  check_folder(folder, options.overwrite);
  make_folder(folder / "passkey");
  write_export(journal, folder / "args.json", args_of(asked).dump(4) + "\n", options, files);
  for (const auto& [length, trials] : lengths) {
    std::string lines;
    for (const auto& [place, line] : trials)
      lines += line;
    write_export(journal, folder / "passkey" / fmt::format("preds_{}.jsonl", length), lines,
                 options, files);
  }
}

}  // namespace

void explained(const ReadJournal& journal,
               std::string_view what,
               const std::function<void()>& read) {
  const auto refuse = [&](std::string_view why) {
    fail(Error::Kind::Input, "{}: {} is not such as stuffed writes: {}", journal.path.string(),
         what, why);
  };
  try {
    read();
  } catch (const Error& error) {
    refuse(error.what());
  } catch (const io::json::exception& error) {
    refuse(io::reason_of(error));
  }
}

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

PaperFiles export_paper(const fs::path& journal,
                        const fs::path& folder,
                        const PaperOptions& options) {
  ReadJournal read{.path = journal, .end = {}, .records = {}};
  read.end = io::read_journal(journal, [&](const io::json& record, io::LinePlace) {
    read.records[record.at("key").get<std::string>()] = record;
  });
  const io::JournalHeader& header = read.end.header;
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
