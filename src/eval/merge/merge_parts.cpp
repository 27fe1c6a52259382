#include <algorithm>
#include <cstdlib>
#include <set>

#include "src/eval/merge/parts.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/record_fields.h"
#include "stuffed/io/sidecar.h"

namespace stuffed::eval {

namespace merging {

namespace fs = std::filesystem;

namespace {

using io::json;

/// Of a config: what need not agree, and what one run over all would have instead.
json whole_config(json config) {
  for (const char* field : {"device", "arrays", "part"})
    config.erase(field);
  return config;
}

Part read_part(const fs::path& path) {
  Part part{.path = path, .header = {}, .records = {}};
  const io::JournalEnd end = io::read_journal(path, [&](const json& record, io::LinePlace) {
    part.records.emplace(record.at("key").get<std::string>(), record);
  });
  check(end.finished, Error::Kind::Input, "{}: is not finished; run its command again to resume it",
        path.string());
  part.header = end.header;
  return part;
}

/// "data.length_tokens: 64 and 32", or nothing.
std::string difference(const json& a, const json& b, const std::string& where) {
  if (a == b)
    return {};
  if (!a.is_object() || !b.is_object())
    return fmt::format("{}: {} and {}", where, a.dump(), b.dump());
  json keys = a;
  keys.update(b);
  for (const auto& [key, unused] : keys.items())
    if (const std::string found = difference(a.value(key, json()), b.value(key, json()),
                                             where.empty() ? key : where + "." + key);
        !found.empty())
      return found;
  return where + ": null and missing";
}

void check_headers(const std::vector<Part>& parts) {
  const Part& first = parts.front();
  for (const Part& part : parts) {
    const bool same =
        part.header.schema == first.header.schema && part.header.version == first.header.version;
    check(same, Error::Kind::Input,
          "{} and {}: are not parts of one run: they hold '{}' version {} and '{}' version {}",
          first.path.string(), part.path.string(), first.header.schema, first.header.version,
          part.header.schema, part.header.version);
    const std::string why =
        difference(whole_config(first.header.config), whole_config(part.header.config), "");
    check(why.empty(), Error::Kind::Input, "{} and {}: are parts of different runs; config.{}",
          first.path.string(), part.path.string(), why);
  }
}

/// Of runs that were begun with --part i/n: is every i there?
void check_parts(const std::vector<Part>& parts) {
  std::map<std::string, const Part*> there;
  std::string of;  // "/4"
  for (const Part& part : parts) {
    if (!part.config("part").is_string())
      return;  // cut by other means: the documents say what is missing
    const std::string name = part.config("part");
    const std::string count = name.substr(std::min(name.find('/'), name.size()));
    if (!there.empty() && of != count)
      fail(Error::Kind::Input, "{} and {}: are parts {} and {}",
           there.begin()->second->path.string(), part.path.string(), there.begin()->first, name);
    of = count;
    there.emplace(name, &part);
  }
  std::vector<std::string> missing;
  const int64_t count = std::strtoll(of.c_str() + 1, nullptr, 10);
  for (int64_t i = 0; i < count && missing.size() < 20; ++i)
    if (const std::string name = fmt::format("{}{}", i, of); !there.contains(name))
      missing.push_back(name);
  check(missing.empty(), Error::Kind::Input, "part {} is missing; its command had --part {}",
        fmt::join(missing, ", "), missing.empty() ? "" : missing.front());
}

[[noreturn]] void refuse_overlap(const std::string& key, const fs::path& a, const fs::path& b) {
  fail(Error::Kind::Input, "'{}' is in both {} and {}; give each part once", key, a.string(),
       b.string());
}

/// Lines that --skip-bad-lines left out have numbers, too.
std::set<int64_t> numbers_left_out(const std::vector<Part>& parts) {
  std::set<int64_t> numbers;
  for (const Part& part : parts)
    if (const auto summary = part.records.find("summary"); summary != part.records.end())
      for (const json& line :
           summary->second.value("bad_lines", json::object()).value("lines", json::array()))
        numbers.insert(line.get<int64_t>() - 1);
  return numbers;
}

Places places_of(const std::vector<Part>& parts) {
  Places places;
  for (const Part& part : parts) {
    std::vector<int64_t> numbers;
    for (const auto& [key, record] : part.records)
      if (key != "summary")
        numbers.push_back(document_number(record));
    std::ranges::sort(numbers);
    for (size_t row = 0; row < numbers.size(); ++row) {
      const auto [other, is_new] =
          places.emplace(numbers[row], Place{&part, static_cast<int64_t>(row)});
      if (!is_new)
        refuse_overlap(fmt::format("document={}", numbers[row]), other->second.part->path,
                       part.path);
    }
  }
  check(!places.empty(), Error::Kind::Input, "{}: holds no document", parts.front().path.string());
  const std::set<int64_t> left_out = numbers_left_out(parts);
  const json data = parts.front().config("data");
  const int64_t asked = data.is_object() ? data.value("documents", int64_t{0}) : 0;
  const int64_t end = std::max(places.rbegin()->first + 1, asked);
  std::vector<std::string> missing;
  for (int64_t number = 0; number < end && missing.size() < 20; ++number)
    if (!places.contains(number) && !left_out.contains(number))
      missing.push_back(fmt::format("document={}", number));
  check(missing.empty(), Error::Kind::Input, "no part holds {}; the others are {} of {}",
        fmt::join(missing, ", "), places.size(), end);
  return places;
}

/// What decides the numbers of a sharded run; the sidecar's name is that of the new one.
json merged_config(const Part& first, const fs::path& sidecar) {
  json config = first.header.config;
  config.erase("part");
  if (config.contains("arrays") && !config["arrays"].is_null())
    config["arrays"] = sidecar.filename().generic_string();
  return config;
}

bool has_sidecar(const Part& part) {
  if (part.header.schema == "stuffed.ppl_by_length")
    return part.config("per_token") == true;
  return part.header.config.contains("arrays") && !part.config("arrays").is_null();
}

void check_schema(const Part& part) {
  static const std::set<std::string> kKnown = {"stuffed.ppl_by_length", "stuffed.state_stats",
                                               "stuffed.retention", "stuffed.passkey",
                                               "stuffed.retrieval"};
  check(kKnown.contains(part.header.schema), Error::Kind::Input,
        "{}: holds '{}', whose runs have no parts; those of ppl-by-length, state-stats, retention, "
        "passkey and retrieval have",
        part.path.string(), part.header.schema);
  check(!part.header.config.contains("dump"), Error::Kind::Input,
        "{}: has a --dump, which is of a single document, so there is nothing to merge",
        part.path.string());
}

void guard(const std::vector<fs::path>& parts, const fs::path& output) {
  io::OutputGuard guard;
  for (const fs::path& part : parts)
    guard.reads("RESULTS", part);
  guard.writes("-o", output);
}

void append_documents(const Places& places, io::Journal& journal) {
  for (const auto& [number, place] : places) {
    const std::string key = fmt::format("document={}", number);
    if (!journal.done(key))
      journal.append(key, fields_of(place.part->records.at(key)));
  }
}

/// Of the length of this number, and of each depth: those of a file are as many as it has.
int64_t samples_of(const json& config, size_t length) {
  if (!config.contains("samples"))
    return io::read_integer(config, "trials");
  return io::read_integers(config, "samples").at(length);
}

/// Trials in the order of their lengths, depths and numbers.
void append_trials(const std::vector<Part>& parts, io::Journal& journal) {
  using Order = std::tuple<int64_t, int64_t, int64_t>;
  std::map<Order, std::pair<const Part*, const json*>> trials;
  for (const Part& part : parts)
    for (const auto& [key, record] : part.records) {
      if (key.starts_with("summary"))
        continue;
      const Order order = {io::read_integer(record, "length_tokens", 1),
                           io::read_integer(record, "depth_index"),
                           io::read_integer(record, "trial")};
      const auto [other, is_new] = trials.emplace(order, std::pair{&part, &record});
      if (!is_new)
        refuse_overlap(key, other->second.first->path, part.path);
    }
  const json config = parts.front().header.config;
  const auto lengths = io::read_integers(config, "lengths_tokens", 1);
  for (size_t i = 0; i < lengths.size(); ++i)
    for (int64_t depth = 0; depth < io::read_integer(config, "depths"); ++depth)
      for (int64_t trial = 0; trial < samples_of(config, i); ++trial)
        check(trials.contains({lengths[i], depth, trial}), Error::Kind::Input,
              "no part holds len={}/depth={}/trial={}", lengths[i], depth, trial);
  for (const auto& [order, found] : trials)
    if (const std::string key = found.second->at("key"); !journal.done(key))
      journal.append(key, fields_of(*found.second));
}

}  // namespace

io::json fields_of(const io::json& record) {
  json fields = record;
  fields.erase("key");
  return fields;
}

fs::path arrays_of(const Part& part, const std::string& name) {
  const fs::path path = part.path.parent_path() / name;
  std::error_code error;
  check(!name.empty() && fs::is_regular_file(path, error), Error::Kind::Input,
        "{}: the arrays of {} are missing", path.string(), part.path.string());
  return path;
}

void finish_summary(const Places& places, io::json& summary) {
  summary["documents"] = places.size();
  json skipped = json::array();
  for (const char* field : {"skipped", "leftover_tokens", "bad_lines"})
    for (const auto& [number, place] : places) {
      const auto found = place.part->records.find("summary");
      if (found != place.part->records.end() && found->second.contains(field))
        summary[field] = found->second.at(field);
    }
  if (!summary.contains("skipped"))
    summary["skipped"] = json::array();
  if (!summary.contains("leftover_tokens"))
    summary["leftover_tokens"] = 0;
}

}  // namespace merging

Merged merge_parts(const std::vector<std::filesystem::path>& paths,
                   const std::filesystem::path& output,
                   const MergeOptions& options) {
  using namespace merging;  // NOLINT
  guard(paths, output);
  std::vector<Part> parts;
  for (const auto& path : paths)
    parts.push_back(read_part(path));
  for (const Part& part : parts)
    check_schema(part);
  check_headers(parts);
  const Part& first = parts.front();
  const std::string& schema = first.header.schema;
  const bool is_retrieval = schema == "stuffed.retrieval";
  const bool has_trials = is_retrieval || schema == "stuffed.passkey";
  const Places places = has_trials ? Places() : places_of(parts);
  check_parts(parts);
  Merged merged{.parts = std::ssize(parts), .records = 0, .sidecar = {}};
  if (has_sidecar(first))
    merged.sidecar = io::sidecar_beside(output);
  io::json provenance = options.provenance;
  if (schema == "stuffed.ppl_by_length" && !merged.sidecar.empty())
    provenance["per_token"] = merged.sidecar.filename().generic_string();
  io::check_sidecar(merged.sidecar, output);
  io::Journal journal = io::Journal::open(output,
                                          {.schema = schema,
                                           .version = first.header.version,
                                           .config = merged_config(first, merged.sidecar),
                                           .provenance = provenance},
                                          options.overwrite);
  if (journal.finished()) {
    merged.records = journal.size();
    return merged;
  }
  if (has_trials) {
    append_trials(parts, journal);
    (is_retrieval ? merge_retrieval : merge_passkey)(parts, journal);
  } else {
    append_documents(places, journal);
    (schema == "stuffed.ppl_by_length" ? merge_losses
     : schema == "stuffed.state_stats" ? merge_state_stats
                                       : merge_retention)(places, journal, merged.sidecar);
  }
  merged.records = journal.size();
  return merged;
}

}  // namespace stuffed::eval
