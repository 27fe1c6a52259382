// Results under the keys of lm-evaluation-harness's results.json.
#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>

#include "export_folder.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/eval/export_tables.h"
#include "stuffed/eval/merge.h"
#include "stuffed/eval/ppl_by_length.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval {

namespace {

namespace fs = std::filesystem;
using io::json;

constexpr const char* kPasskeySchema = "stuffed.passkey";
constexpr const char* kRetrieval = "stuffed.retrieval";

/// Losses of some targets.
struct LossSum {
  double nll_nats = 0;
  int64_t targets = 0, bytes = 0, documents = 0;
  bool has_bytes = true;  // of every document

  void add(const LossSum& other) {
    nll_nats += other.nll_nats;
    targets += other.targets;
    bytes += other.bytes;
    has_bytes = has_bytes && other.has_bytes;
  }
};

/// Answers to some prompts.
struct AnswerSum {
  int64_t asked = 0, counted = 0, exact = 0;
  double score = 0, squares = 0;  // sums of the scores counted, and of their squares
  bool has_exact = false;

  void add(const AnswerSum& other) {
    asked += other.asked;
    counted += other.counted;
    exact += other.exact;
    score += other.score;
    squares += other.squares;
    has_exact = has_exact || other.has_exact;
  }
};

/// A run of one model: a journal, or the cell of a sweep.
struct Run {
  std::string schema;
  json config;
  std::map<int64_t, LossSum> losses = {};     // by the position that a bucket ends at
  std::map<int64_t, AnswerSum> answers = {};  // by length
  int64_t documents = 0;
};

double number_or_nan(const json& value) {
  return value.is_number() ? value.get<double>() : std::nan("");
}

void add_document(const json& record, Run& run) {
  const int64_t bucket = io::read_integer(run.config, "bucket_tokens", 1);
  check_ppl_record(record, bucket);
  if (record.at("key").get<std::string>().ends_with("summary"))
    return;
  ++run.documents;
  const int64_t targets = io::read_integer(record, "targets", 1);
  const json& nll = record.at("nll_sum_nats");
  const json bytes = record.value("text_bytes", json());
  for (size_t b = 0; b < nll.size(); ++b) {
    const auto begin = static_cast<int64_t>(b) * bucket;
    run.losses[begin + bucket].add({.nll_nats = number_or_nan(nll[b]),
                                    .targets = std::min(bucket, targets - begin),
                                    .bytes = bytes.is_null() ? 0 : bytes.at(b).get<int64_t>(),
                                    .has_bytes = !bytes.is_null()});
    ++run.losses[begin + bucket].documents;
  }
}

void add_trial(const json& record, Run& run) {
  const bool is_passkey = run.schema == kPasskeySchema;
  (is_passkey ? check_passkey_record : check_retrieval_record)(
      record, io::read_integer(run.config, "depths", 1));
  if (!record.contains("trial"))
    return;  // a summary
  const bool is_cut = record.value("answer_cut", false);
  AnswerSum one{.asked = 1, .counted = !is_cut, .has_exact = is_passkey};
  if (!is_cut) {
    one.score =
        is_passkey ? double(io::read_flag(record, "correct")) : record.at("score").get<double>();
    one.exact = is_passkey && io::read_flag(record, "exact");
  }
  one.squares = one.score * one.score;
  run.answers[io::read_integer(record, "length_tokens", 1)].add(one);
}

void add_record(const json& record, Run& run) {
  if (run.schema == kPplByLengthSchema)
    add_document(record, run);
  else if (run.schema == kPasskeySchema || run.schema == kRetrieval)
    add_trial(record, run);
}

bool is_known(const std::string& schema) {
  return schema == kPplByLengthSchema || schema == kPasskeySchema || schema == kRetrieval;
}

json finite(double value) {
  return std::isfinite(value) ? json(value) : json();
}

json metrics_of(const LossSum& sum) {
  json metrics = {
      {"token_perplexity,none", finite(std::exp(sum.nll_nats / static_cast<double>(sum.targets)))},
      {"token_perplexity_stderr,none", "N/A"}};
  if (!sum.has_bytes || sum.bytes == 0)
    return metrics;
  const double per_byte = sum.nll_nats / static_cast<double>(sum.bytes);
  metrics.update({{"byte_perplexity,none", finite(std::exp(per_byte))},
                  {"byte_perplexity_stderr,none", "N/A"},
                  {"bits_per_byte,none", finite(per_byte / std::log(2.0))},
                  {"bits_per_byte_stderr,none", "N/A"}});
  return metrics;
}

/// A mean of scores and its standard error: that of a sample's mean. `squares` is the sum of theirs.
void put_mean(json& metrics, const std::string& name, double sum, double squares, int64_t of) {
  const double n = static_cast<double>(of), mean = sum / n;
  const double variance = std::max(0.0, squares / n - mean * mean);
  metrics[name + ",none"] = of > 0 ? json(mean) : json();
  metrics[name + "_stderr,none"] = of > 1 ? json(std::sqrt(variance / (n - 1))) : json("N/A");
}

/// The same of ones and zeros.
void put_share(json& metrics, const std::string& name, int64_t hits, int64_t of) {
  const double n = static_cast<double>(of), share = static_cast<double>(hits) / n;
  metrics[name + ",none"] = of > 0 ? json(share) : json();
  metrics[name + "_stderr,none"] =
      of > 1 ? json(std::sqrt(share * (1 - share) / (n - 1))) : json("N/A");
}

json metrics_of(const AnswerSum& sum) {
  json metrics;
  if (!sum.has_exact) {
    put_mean(metrics, "acc", sum.score, sum.squares, sum.counted);
    return metrics;
  }
  put_share(metrics, "acc", std::llround(sum.score), sum.counted);
  put_share(metrics, "exact_match", sum.exact, sum.counted);
  return metrics;
}

json samples_of(const LossSum& sum) {
  return {{"original", sum.documents}, {"effective", sum.documents}};
}

json samples_of(const AnswerSum& sum) {
  return {{"original", sum.asked}, {"effective", sum.counted}};
}

/// What the harness lists per metric.
json higher_is_better(const json& metrics) {
  json better = json::object();
  for (const auto& [name, value] : metrics.items())
    if (name.find("_stderr,") == name.npos)
      better[name.substr(0, name.find(','))] =
          !name.starts_with("token_") && !name.starts_with("byte_") && !name.starts_with("bits_");
  return better;
}

json config_of_task(const std::string& task, const std::string& group, const json& config) {
  return {{"task", task},
          {"tag", group},
          {"output_type", group == "ppl_by_length" ? "loglikelihood_rolling" : "generate_until"},
          {"num_fewshot", 0},
          {"metadata", config}};
}

/// A group of tasks, by `sums`; `whole` is over all of them.
template <class Sum>
void put_tasks(json& out,
               const std::string& group,
               const std::map<int64_t, Sum>& sums,
               Sum whole,
               const json& config) {
  json& results = out["results"];
  json metrics = metrics_of(whole);
  out["higher_is_better"][group] = higher_is_better(metrics);
  metrics["alias"] = group;
  results[group] = out["groups"][group] = metrics;
  out["versions"][group] = 1;
  for (const auto& [tokens, sum] : sums) {
    const std::string task = fmt::format("{}_{}", group, tokens);
    json of_task = metrics_of(sum);
    out["higher_is_better"][task] = higher_is_better(of_task);
    of_task["alias"] = " - " + task;
    results[task] = of_task;
    out["group_subtasks"][group].push_back(task);
    out["configs"][task] = config_of_task(task, group, config);
    out["versions"][task] = 1;
    out["n-shot"][task] = 0;
    out["n-samples"][task] = samples_of(sum);
  }
}

std::string text_in(const json& fields, const char* field) {
  const json value = fields.is_object() ? fields.value(field, json()) : json();
  return value.is_string() ? value.get<std::string>() : "";
}

/// The model's path, where the journal or its command says it, else what identifies it.
std::string model_name(const json& config, const json& provenance) {
  if (const std::string name = text_in(provenance, "model"); !name.empty())
    return name;
  const json line = provenance.value("command_line", json::array());
  for (size_t i = 0; i + 1 < line.size(); ++i)
    if (line[i] == "--model" && line[i + 1].is_string())
      return line[i + 1];
  const json model = config.value("model", json());
  return text_in(model, "family") + "-" + text_in(model, "sha256").substr(0, 12);
}

/// As a folder's name, in the harness's way.
std::string sanitized(const std::string& name) {
  std::string out;
  bool replaced = false;
  for (const char c : name) {
    const bool bad = std::string_view("\"<>:/|\\?*[]").find(c) != std::string_view::npos;
    out += !bad ? std::string(1, c) : replaced ? "" : "__";
    replaced = bad;
  }
  return out;
}

/// Seconds since 1970; null if unknown.
json seconds_of(const std::string& utc) {
  std::tm when = {};
  const char* const end = ::strptime(utc.c_str(), "%Y-%m-%dT%H:%M:%SZ", &when);
  return end == nullptr ? json() : json(static_cast<double>(::timegm(&when)));
}

void put_run(json& out, const Run& run, const json& provenance, const std::string& name) {
  const json& config = run.config;
  const json seed = config.value("seed", json());
  out["config"] = {
      {"model", "stuffed"},
      {"model_args", fmt::format("pretrained={},dtype={}", name, text_in(config, "dtype"))},
      {"model_dtype", text_in(config, "dtype")},
      {"model_revision", nullptr},
      {"model_sha", text_in(config.value("model", json()), "sha256")},
      {"batch_size", config.value("batch_size", json(1))},
      {"batch_sizes", json::array()},
      {"device", text_in(config, "device")},
      {"use_cache", nullptr},
      {"limit", nullptr},
      {"bootstrap_iters", 0},
      {"gen_kwargs", nullptr},
      {"random_seed", seed},
      {"numpy_seed", nullptr},
      {"torch_seed", nullptr},
      {"fewshot_seed", nullptr}};
  out["git_hash"] = text_in(provenance, "commit");
  out["date"] = seconds_of(text_in(provenance, "started_utc"));
  out["pretty_env_info"] =
      fmt::format("stuffed {}, LibTorch {}, CUDA {}, {}", text_in(provenance, "version"),
                  text_in(provenance, "libtorch"), text_in(provenance, "cuda"),
                  text_in(provenance, "device_name"));
  out["model_source"] = "stuffed";
  out["model_name"] = name;
  out["model_name_sanitized"] = sanitized(name);
  for (const char* unknown :
       {"transformers_version", "lm_eval_version", "upper_git_hash", "system_instruction",
        "system_instruction_sha", "fewshot_as_multiturn", "chat_template", "chat_template_sha",
        "start_time", "end_time", "total_evaluation_time_seconds"})
    out[unknown] = nullptr;
  out["task_hashes"] = json::object();
}

/// "passkey", or the task of a retrieval run: "niah_multikey".
std::string group_of(const Run& run) {
  if (run.schema == kPasskeySchema)
    return "passkey";
  std::string task = io::read_text(run.config, "task");
  std::ranges::replace(task, '-', '_');
  return task;
}

json results_of(const Run& run, const json& provenance, const std::string& name) {
  json out = json::object();
  for (const char* part : {"results", "groups", "group_subtasks", "configs", "versions", "n-shot",
                           "higher_is_better", "n-samples"})
    out[part] = json::object();
  LossSum losses;
  for (const auto& [tokens, sum] : run.losses)
    losses.add(sum);
  AnswerSum answers;
  for (const auto& [tokens, sum] : run.answers)
    answers.add(sum);
  if (!run.losses.empty())
    put_tasks(out, "ppl_by_length", run.losses, losses, run.config);
  if (!run.answers.empty())
    put_tasks(out, group_of(run), run.answers, answers, run.config);
  put_run(out, run, provenance, name);
  return out;
}

/// The journal's run under "", or a sweep's by their cells.
std::map<std::string, Run> runs_of(const io::JournalHeader& header) {
  std::map<std::string, Run> runs;
  if (header.schema != kSweepSchema) {
    runs[""] = {.schema = header.schema, .config = header.config};
    return runs;
  }
  for (const json& cell : header.config.at("cells")) {
    const std::string name = io::read_text(cell, "name");
    const bool good = !name.empty() && name.find('/') == name.npos &&
                      name.find('\0') == name.npos && !name.starts_with('.');
    check(good, Error::Kind::Input, "{:?} is no name of a cell", name);
    runs[name] = {.schema = io::read_text(cell, "schema"), .config = cell.at("config")};
  }
  return runs;
}

/// Where a cell's model is, among the options it was given.
std::string model_of_cell(const io::JournalHeader& header, const std::string& cell) {
  for (const json& one : header.config.at("cells"))
    if (one.at("name") == cell && one.contains("options"))
      return text_in(one.at("options"), "model");
  return "";
}

void read_records(const fs::path& journal, bool is_sweep, std::map<std::string, Run>& runs) {
  io::read_journal(journal, [&](const json& record, io::LinePlace) {
    json own = record;
    std::string cell;
    if (is_sweep) {
      cell = io::read_text(record, "cell");
      const std::string key = io::read_text(record, "key");
      check(runs.contains(cell) && key.starts_with(cell + "/"), Error::Kind::Input,
            "the record {:?} is of no cell of the header", key);
      own["key"] = key.substr(cell.size() + 1);
    }
    add_record(own, runs.at(cell));
  });
}

/// Somebody may have edited what is read.
/// Errors  Input, naming the journal
template <class Read>
auto explained(const fs::path& journal, const Read& read) {
  const auto refuse = [&](std::string_view why) {
    fail(Error::Kind::Input, "{}: is not such as stuffed writes: {}", journal.string(), why);
  };
  try {
    return read();
  } catch (const json::exception& error) {
    refuse(io::reason_of(error));
  } catch (const Error& error) {
    if (std::string_view(error.what()).find(journal.string()) != std::string_view::npos)
      throw;
    refuse(error.what());
  }
  return read();  // not reached
}

/// Where the model of a run is, as far as the journal says.
std::string model_of(const io::JournalHeader& header, const std::string& cell, const Run& run) {
  const std::string of_cell = cell.empty() ? "" : model_of_cell(header, cell);
  return of_cell.empty() ? model_name(run.config, header.provenance) : of_cell;
}

void write_results(const fs::path& journal,
                   const fs::path& path,
                   const json& results,
                   ExportedFiles& files) {
  io::OutputGuard guard;
  guard.reads("RESULTS", journal);
  guard.writes("-o", path);
  make_folder(path.parent_path());
  io::write_text(path, results.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  files.written.push_back(path);
}

}  // namespace

ExportedFiles export_lm_eval(const fs::path& journal,
                             const fs::path& folder,
                             const ExportOptions& options) {
  const io::JournalEnd end = io::read_journal(journal, [](const json&, io::LinePlace) {});
  const bool is_sweep = end.header.schema == kSweepSchema;
  check(!end.empty && (is_sweep || is_known(end.header.schema)), Error::Kind::Input,
        "{}: holds '{}', which lm-eval's files have no place for; ppl-by-length, passkey and "
        "retrieval have one, and --format csv takes all",
        journal.string(), end.header.schema);
  check_finished(journal, end.finished, options.partial);
  check_folder(folder, options.overwrite);
  ExportedFiles files;
  const std::map<std::string, Run> runs = explained(journal, [&] {
    auto found = runs_of(end.header);
    read_records(journal, is_sweep, found);
    return found;
  });
  for (const auto& [cell, run] : runs) {
    if (run.losses.empty() && run.answers.empty()) {
      files.warnings.push_back(
          fmt::format("{}: {}holds no losses by length and no answers; nothing is written of it",
                      journal.string(), cell.empty() ? "" : "cell '" + cell + "' "));
      continue;
    }
    const json results = explained(journal, [&] {
      return results_of(run, end.header.provenance, model_of(end.header, cell, run));
    });
    write_results(journal, folder / cell / "results.json", results, files);
  }
  check(!files.written.empty(), Error::Kind::Input,
        "{}: has no results that lm-eval's files have a place for; --format csv takes all",
        journal.string());
  if (!end.finished)
    files.warnings.push_back(fmt::format(
        "{}: is not finished; the results are of the records so far", journal.string()));
  return files;
}

}  // namespace stuffed::eval
