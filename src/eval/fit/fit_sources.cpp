#include "src/eval/fit/fit_sources.h"

#include <algorithm>
#include <set>

#include "stuffed/core/error.h"
#include "stuffed/eval/merge.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval::fitting {

namespace {

using io::json;

constexpr int kKnown = 1;  // version of the schemas read here

void check_schema(const std::string& name,
                  const std::string& schema,
                  int64_t version,
                  const std::string& wanted) {
  check(schema == wanted, Error::Kind::Input, "{}: holds '{}'; this fit reads '{}'", name, schema,
        wanted);
  check(version <= kKnown, Error::Kind::Input,
        "{}: has version {} of '{}', but this stuffed knows only up to {}", name, version, schema,
        kKnown);
}

bool is_summary(const std::string& key) {
  return key == "summary" || key.starts_with("summary/");
}

std::string text_in(const json& object, const char* field) {
  const json found = object.is_object() ? object.value(field, json()) : json();
  return found.is_string() ? found.get<std::string>() : "";
}

/// The cells of a sweep, without their records yet.
std::map<std::string, Source> cells_of(const std::filesystem::path& path,
                                       const json& config,
                                       const std::string& schema) {
  std::map<std::string, Source> cells;
  for (const json& cell : config.at("cells")) {
    const std::string name = cell.at("name");
    Source source{.name = fmt::format("{}: {}", path.string(), name),
                  .config = cell.at("config"),
                  .facts = cell,
                  .model = text_in(cell.value("options", json()), "model")};
    check_schema(source.name, cell.at("schema"), cell.at("version"), schema);
    cells.emplace(name, std::move(source));
  }
  return cells;
}

constexpr const char* kNoSettings[] = {
    "model", "train_len_tokens", "per_token", "batch_size",        "device",
    "impl",  "segment_tokens",   "part",      "state_memory_bytes"};

void list_differences(const json& a,
                      const json& b,
                      const std::string& where,
                      std::set<std::string>& out) {
  json keys = a;
  keys.update(b);
  for (const auto& [key, unused] : keys.items()) {
    const json left = a.value(key, json()), right = b.value(key, json());
    if (left == right ||
        (where.empty() && std::ranges::find(kNoSettings, key) != std::end(kNoSettings)))
      continue;
    if (left.is_object() && right.is_object())
      list_differences(left, right, where + key + ".", out);
    else
      out.insert(where + key);
  }
}

}  // namespace

void explained(const Source& source, const std::function<void()>& read) {
  try {
    read();
  } catch (const json::exception& error) {
    fail(Error::Kind::Input, "{}: is not such as stuffed writes: {}", source.name,
         io::reason_of(error));
  }
}

std::vector<Source> read_sources(const std::filesystem::path& path, const std::string& schema) {
  std::map<std::string, std::map<std::string, json>> summaries;  // by cell
  const io::JournalEnd end = io::read_journal(path, [&](const json& record, io::LinePlace) {
    const std::string cell = text_in(record, "cell"), key = text_in(record, "key");
    const std::string own = cell.empty() ? key : key.substr(std::min(key.size(), cell.size() + 1));
    if (is_summary(own))
      summaries[cell][own] = record;
  });
  check(end.finished, Error::Kind::Input,
        "{}: is not finished; run its command again, which goes on with it", path.string());
  Source source{.name = path.string(),
                .config = end.header.config,
                .facts = end.header.provenance,
                .model = text_in(end.header.provenance, "model")};
  if (end.header.schema != kSweepSchema) {
    check_schema(source.name, end.header.schema, end.header.version, schema);
    source.summaries = std::move(summaries[""]);
    return {std::move(source)};
  }
  std::vector<Source> sources;
  explained(source, [&] {
    for (auto& [name, cell] : cells_of(path, end.header.config, schema)) {
      cell.summaries = std::move(summaries[name]);
      sources.push_back(std::move(cell));
    }
  });
  return sources;
}

std::vector<std::string> settings_that_differ(const std::vector<Source>& sources) {
  std::set<std::string> found;
  for (const Source& source : sources)
    list_differences(sources.front().config, source.config, "", found);
  return {found.begin(), found.end()};
}

}  // namespace stuffed::eval::fitting
