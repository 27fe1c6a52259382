#include "stuffed/eval/compare.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <tuple>

#include "src/eval/compare/side.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/merge.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval {

namespace comparing {

namespace {

using io::json;

struct Schema {
  const char* name;
  Compare compare;
  int version = 1;
};
constexpr Schema kSchemas[] = {
    {"stuffed.ppl_by_length", compare_ppl},   {"stuffed.state_stats", compare_state_stats},
    {"stuffed.retention", compare_retention}, {"stuffed.passkey", compare_passkey},
    {"stuffed.train", compare_train},         {"stuffed.verify", compare_verify},
    {"stuffed.bench", compare_bench},         {"stuffed.retrieval", compare_retrieval},
};

const Schema& schema_of(const Side& side) {
  const auto found = std::ranges::find(kSchemas, side.schema, &Schema::name);
  check(found != std::end(kSchemas), Error::Kind::Input, "{}: holds '{}', which cannot be compared",
        side.path.string(), side.schema);
  return *found;
}

/// Whoever looks into a record may find a field missing, of another type, or out of its range.
void explained(const Side& side, const std::string& what, const std::function<void()>& read) {
  const auto refuse = [&](std::string_view why) {
    fail(Error::Kind::Input, "{}: {} is not such as stuffed writes: {}", side.path.string(), what,
         why);
  };
  try {
    read();
  } catch (const Error& error) {
    refuse(error.what());
  } catch (const json::exception& error) {
    refuse(io::reason_of(error));
  }
}

Side open_side(const std::filesystem::path& path) {
  io::JournalEnd end = io::read_journal(path, [](const json&, io::LinePlace) {});
  check(end.finished, Error::Kind::Input, "{}: is not finished; run its command again to resume it",
        path.string());
  Side side{.path = path,
            .config = std::move(end.header.config),
            .provenance = std::move(end.header.provenance),
            .schema = end.header.schema,
            .each = {}};
  const int known = side.schema == kSweepSchema ? kSweepVersion : schema_of(side).version;
  check(end.header.version <= known, Error::Kind::Input,
        "{}: has version {} of '{}', but this stuffed knows only up to {}", path.string(),
        end.header.version, side.schema, known);
  check(side.config.is_object(), Error::Kind::Input, "{}: its config is no object", path.string());
  return side;
}

/// A Side by value refers to nothing that moves: its path is all that reading takes.
void give_records(Side& side) {
  side.each = [path = side.path](const std::function<void(const json&)>& on_record) {
    Side named{.path = path, .config = {}, .provenance = {}, .schema = {}, .each = {}};
    io::read_journal(path, [&](const json& record, io::LinePlace) {
      explained(named, fmt::format("the record '{}'", record.at("key").get<std::string>()),
                [&] { on_record(record); });
    });
  };
}

json model_of(const json& config) {
  const json model = config.value("model", json());
  if (model.is_object() && model.contains("sha256"))
    return model.at("sha256");
  return config.contains("sha256") ? config.at("sha256") : model;
}

std::string setting_text(const json& value) {
  if (value.is_null())
    return "none";
  const std::string text = value.is_string()
                               ? value.get<std::string>()
                               : value.dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() > 80 ? text.substr(0, 77) + "..." : text;
}

void list_settings(const json& a, const json& b, const std::string& where, ResultComparison& out) {
  static const std::set<std::string> kNoSettings = {"arrays", "dump"};
  json keys = a;
  keys.update(b);
  for (const auto& [key, unused] : keys.items()) {
    const json left = a.value(key, json()), right = b.value(key, json());
    if (left == right || kNoSettings.contains(key))
      continue;
    if (left.is_object() && right.is_object())
      list_settings(left, right, where + key + ".", out);
    else
      out.settings.push_back(
          fmt::format("{}{}: {} | {}", where, key, setting_text(left), setting_text(right)));
  }
}

void check_models(const Side& a, const Side& b, bool across_models) {
  const json of_a = model_of(a.config), of_b = model_of(b.config);
  check(across_models || of_a == of_b, Error::Kind::Input,
        "{} and {}: are of different models ({} and {}); to compare them nevertheless, give "
        "--across-models",
        a.path.string(), b.path.string(), setting_text(of_a), setting_text(of_b));
}

}  // namespace

void check_same(const Side& a, const Side& b, const char* field, const char* what) {
  const json of_a = a.config.value(field, json()), of_b = b.config.value(field, json());
  check(of_a == of_b, Error::Kind::Input, "{} and {}: {} (config.{}: {} and {})", a.path.string(),
        b.path.string(), what, field, setting_text(of_a), setting_text(of_b));
}

double number_or_nan(const json& value) {
  return value.is_null() ? kUnknown : value.get<double>();
}

double number_in(const json& object, const char* field) {
  return object.contains(field) ? number_or_nan(object.at(field)) : kUnknown;
}

double growth(double a, double b) {
  if (!std::isfinite(a))
    return 0;
  return std::isfinite(b) ? b - a : std::numeric_limits<double>::infinity();
}

void raise_metric(ResultComparison& out, const char* name, double value) {
  const auto [at, is_new] = out.metrics.emplace(name, value);
  if (!is_new)
    at->second = std::max(at->second, value);
}

}  // namespace comparing

double ComparedValue::distance() const {
  if (std::isfinite(a) != std::isfinite(b))
    return std::numeric_limits<double>::infinity();
  return std::isfinite(a) ? std::abs(b - a) : 0;
}

const std::vector<MetricHelp>& compare_metrics() {
  static const std::vector<MetricHelp> kMetrics = {
      {"nll_mean", "ppl-by-length, state-stats", "nats per token", "how much the mean loss rose"},
      {"nll_mean_low", "ppl-by-length, state-stats", "nats per token",
       "lower end of the 95 % interval of nll_mean: above 0 if the rise is significant"},
      {"nll_mean_relative", "ppl-by-length, state-stats", "share",
       "nll_mean over A's mean loss: 0.001 is 0.1 %"},
      {"nll_bucket_max", "ppl-by-length", "nats per token",
       "how much the mean loss of a bucket rose, the worst bucket"},
      {"bits_per_byte", "ppl-by-length", "bits per byte",
       "how much the bits per byte rose, where the text is known"},
      {"collapse_onset_drop", "ppl-by-length", "tokens",
       "how much earlier the loss collapses, with --train-len"},
      {"not_finite", "ppl-by-length, state-stats", "count",
       "losses or states that are not finite: B's number minus A's"},
      {"passkey_accuracy_drop", "passkey", "share", "how much the accuracy over all trials fell"},
      {"passkey_accuracy_drop_max", "passkey", "share",
       "how much the accuracy of the worst length fell"},
      {"passkey_length_drop", "passkey", "tokens", "how much the effective length fell"},
      {"retrieval_accuracy_drop", "retrieval", "share",
       "how much the mean score over all trials fell"},
      {"retrieval_accuracy_drop_max", "retrieval", "share", "the same of the worst length"},
      {"retrieval_length_drop", "retrieval", "tokens", "how much the effective length fell"},
      {"answer_nll_mean", "passkey, retrieval", "nats per answer",
       "how much the mean loss of the answers rose"},
      {"state_norm_relative", "state-stats", "share",
       "how much the largest state norm rose, over A's"},
      {"alpha_max", "state-stats", "per token",
       "how far a layer's mean decay moved, up or down, the worst layer"},
      {"effrem_max", "retention", "0 to 1", "how far a point of effrem moved, up or down"},
      {"half_life_drop_max", "retention", "share",
       "how much a layer's median half-life fell, over A's; a censored one counts as what was "
       "followed"},
      {"loss_last", "train", "nats per token", "how much the loss of the last report rose"},
      {"validation_max", "train", "nats per token",
       "how much a loss of the last validation rose, the worst source"},
      {"disagreements", "verify", "count", "comparisons that disagree in B and did not in A"},
      {"slowdown_max", "bench", "share", "how much longer a measurement takes, over A's time"},
  };
  return kMetrics;
}

namespace comparing {

namespace {

/// Where the records of each cell lie.
using CellPlaces = std::map<std::string, std::vector<io::LinePlace>>;

CellPlaces find_records(const std::filesystem::path& path) {
  CellPlaces places;
  io::read_journal(path, [&](const json& record, io::LinePlace place) {
    places[record.at("cell").get<std::string>()].push_back(place);
  });
  return places;
}

json read_line(std::ifstream& file, const std::filesystem::path& path, io::LinePlace place) {
  std::string line(static_cast<size_t>(place.bytes), '\0');
  file.seekg(place.offset_bytes);
  file.read(line.data(), place.bytes);
  check(file.good(), Error::Kind::Input, "{}: was changed while it was read", path.string());
  return io::parse_json(line, path.string());
}

/// The results of one cell, as if they were a file of their own.
Side side_of_cell(const Side& sweep, const json& cell, const std::vector<io::LinePlace>& places) {
  const std::string name = cell.at("name");
  Side side{.path = sweep.path.string() + ": " + name,
            .config = cell.at("config"),
            .provenance = {},
            .schema = cell.at("schema"),
            .each = {}};
  side.each = [path = sweep.path, name, places](const std::function<void(const json&)>& on_record) {
    std::ifstream file(path, std::ios::binary);
    const Side named{.path = path, .config = {}, .provenance = {}, .schema = {}, .each = {}};
    for (const io::LinePlace place : places)
      explained(named, fmt::format("a record of the cell '{}'", name), [&] {
        json record = read_line(file, path, place);
        record["key"] = record.at("key").get<std::string>().substr(name.size() + 1);
        on_record(record);
      });
  };
  return side;
}

std::map<std::string, json> cells_of(const Side& sweep) {
  std::map<std::string, json> cells;
  explained(sweep, "the list of cells", [&] {
    for (const json& cell : sweep.config.at("cells"))
      cells.emplace(cell.at("name").get<std::string>(), cell);
  });
  return cells;
}

void check_same_cells(const Side& a, const Side& b) {
  const auto of_a = cells_of(a), of_b = cells_of(b);
  for (const auto& [with, cells, without, others] :
       {std::tuple{&a, &of_a, &b, &of_b}, std::tuple{&b, &of_b, &a, &of_a}})
    for (const auto& [name, cell] : *cells)
      check(others->contains(name), Error::Kind::Input, "{}: has no cell '{}', which {} has",
            without->path.string(), name, with->path.string());
}

void compare_pair(const Side& a, const Side& b, bool across_models, ResultComparison& out) {
  check(a.schema == b.schema, Error::Kind::Input,
        "{} holds '{}', {} holds '{}'; results of one command can be compared", a.path.string(),
        a.schema, b.path.string(), b.schema);
  check_models(a, b, across_models);
  list_settings(a.config, b.config, "", out);
  schema_of(a).compare(a, b, out);
}

/// Cell by cell; metrics are those of the worst cell.
void compare_sweeps(const Side& a, const Side& b, bool across_models, ResultComparison& out) {
  check_same_cells(a, b);
  const CellPlaces places_a = find_records(a.path), places_b = find_records(b.path);
  const auto of_b = cells_of(b);
  int64_t pairs = 0;
  const auto at = [](const CellPlaces& places, const std::string& name) {
    const auto found = places.find(name);
    return found == places.end() ? std::vector<io::LinePlace>() : found->second;
  };
  for (const auto& [name, cell] : cells_of(a)) {
    const size_t rows = out.rows.size(), settings = out.settings.size();
    compare_pair(side_of_cell(a, cell, at(places_a, name)),
                 side_of_cell(b, of_b.at(name), at(places_b, name)), across_models, out);
    for (size_t i = rows; i < out.rows.size(); ++i)
      out.rows[i].cell = name;
    for (size_t i = settings; i < out.settings.size(); ++i)
      out.settings[i] = name + ": " + out.settings[i];
    pairs += out.pairs;
  }
  out.pairs = pairs;
  out.pairs_of = "documents, trials and records";
}

}  // namespace

}  // namespace comparing

ResultComparison compare_results(const std::filesystem::path& a,
                                 const std::filesystem::path& b,
                                 bool across_models) {
  comparing::Side left = comparing::open_side(a), right = comparing::open_side(b);
  check(left.schema == right.schema, Error::Kind::Input,
        "{} holds '{}', {} holds '{}'; results of one command can be compared", a.string(),
        left.schema, b.string(), right.schema);
  ResultComparison out{
      .schema = left.schema, .rows = {}, .metrics = {}, .settings = {}, .pairs_of = {}};
  if (left.schema == kSweepSchema) {
    comparing::compare_sweeps(left, right, across_models, out);
    return out;
  }
  comparing::give_records(left);
  comparing::give_records(right);
  comparing::compare_pair(left, right, across_models, out);
  return out;
}

}  // namespace stuffed::eval
