// `stuffed compare`: two results side by side, and whether they are close enough.
#include "stuffed/eval/compare.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <optional>

#include "src/cli/app.h"
#include "src/cli/compare/report.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "src/cli/suggest.h"
#include "stuffed/core/error.h"

namespace stuffed::cli {

namespace {

struct CompareArguments {
  std::string a, b, format = "md";
  std::vector<std::string> fail_above;
  std::optional<double> atol, rtol;
  bool across_models = false, list_metrics = false;
};

struct Limit {
  std::string metric;
  double value = 0;
};

std::vector<std::string> metric_names() {
  std::vector<std::string> names;
  for (const eval::MetricHelp& metric : eval::compare_metrics())
    names.push_back(metric.name);
  return names;
}

/// NAME=VALUE.
Limit parse_limit(const std::string& text) {
  const size_t equals = text.find('=');
  Limit limit{.metric = text.substr(0, equals)};
  std::ranges::replace(limit.metric, '-', '_');
  const std::vector<std::string> names = metric_names();
  check(std::ranges::find(names, limit.metric) != names.end(), Error::Kind::Usage,
        "--fail-above: there is no metric '{}' (see --list-metrics){}", limit.metric,
        did_you_mean(limit.metric, names));
  const std::string value = equals == text.npos ? "" : text.substr(equals + 1);
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), limit.value);
  check(error == std::errc() && end == value.data() + value.size() && !value.empty() &&
            !std::isnan(limit.value),
        Error::Kind::Usage, "--fail-above {}: '{}' is not a number; write NAME=VALUE", text, value);
  return limit;
}

std::optional<std::string> exceeded(const Limit& limit, const eval::ResultComparison& found) {
  const auto metric = found.metrics.find(limit.metric);
  std::vector<std::string> names;
  for (const auto& [name, value] : found.metrics)
    names.push_back(name);
  check(metric != found.metrics.end(), Error::Kind::Usage,
        "--fail-above {}: these results of {} do not have it; they have {}", limit.metric,
        found.schema, fmt::join(names, ", "));
  if (metric->second <= limit.value)
    return {};
  return fmt::format("{} is {:.6g}, above {:g}", limit.metric, metric->second, limit.value);
}

/// Rows that are farther apart than --atol and --rtol allow, in one line.
std::optional<std::string> too_far(const CompareArguments& options,
                                   const eval::ResultComparison& found) {
  if (!options.atol && !options.rtol)
    return {};
  const double atol = options.atol.value_or(0), rtol = options.rtol.value_or(0);
  const eval::ComparedValue* worst = nullptr;
  double most = 0;
  int64_t count = 0;
  for (const eval::ComparedValue& row : found.rows) {
    const double excess =
        row.distance() - atol - rtol * (std::isfinite(row.a) ? std::abs(row.a) : 0);
    count += excess > 0;
    if (excess > most || (excess > 0 && !worst)) {
      worst = &row;
      most = excess;
    }
  }
  if (count == 0)
    return {};
  return fmt::format(
      "{} of {} rows differ by more than {:g} + {:g} of A; the worst is {}{} {} {}: {} and {}",
      count, found.rows.size(), atol, rtol, worst->cell.empty() ? "" : worst->cell + ": ",
      worst->metric, worst->axis, worst->at, worst->a, worst->b);
}

void list_metrics() {
  cli::print(stdout, "{:<26} {:<26} {:<16} {}\n", "metric", "results of", "unit", "meaning");
  for (const eval::MetricHelp& metric : eval::compare_metrics())
    cli::print(stdout, "{:<26} {:<26} {:<16} {}\n", metric.name, metric.commands, metric.unit,
               metric.meaning);
}

void run_compare(const CompareArguments& options) {
  if (options.list_metrics)
    return list_metrics();
  check(!options.b.empty(), Error::Kind::Usage,
        "compare: two results are expected, A.jsonl and B.jsonl\nRun 'stuffed compare --help' for "
        "the options.");
  std::vector<Limit> limits;
  for (const std::string& text : options.fail_above)
    limits.push_back(parse_limit(text));
  const eval::ResultComparison found =
      eval::compare_results(options.a, options.b, options.across_models);
  CompareReport report{.a = options.a, .b = options.b, .found = found, .failures = {}};
  for (const Limit& limit : limits)
    if (const auto failure = exceeded(limit, found))
      report.failures.push_back(*failure);
  if (const auto failure = too_far(options, found))
    report.failures.push_back(*failure);
  cli::print(stdout, "{}",
             options.format == "md"    ? compare_markdown(report)
             : options.format == "csv" ? compare_csv(report)
                                       : compare_json(report).dump(2) + "\n");
  check(report.failures.empty(), Error::Kind::Disagreement, "{} against {}: {}", options.b,
        options.a, fmt::join(report.failures, "; "));
}

void add_tolerance(CLI::App& app, const char* flag, std::optional<double>& home, const char* what) {
  app.add_option(flag, home, what)
      ->check(number_between(0, 1e300))
      ->type_name("X")
      ->group("Limits");
}

}  // namespace

void add_compare(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "compare",
      "Two results of one command side by side: A, B, the difference and its 95 % interval; with "
      "limits, whether B is worse",
      "  stuffed compare before.jsonl after.jsonl\n"
      "  stuffed compare before.jsonl after.jsonl --fail-above nll_mean=0.001 --format md\n"
      "  stuffed compare plain.jsonl rri.jsonl --fail-above passkey_accuracy_drop=0.02\n"
      "  stuffed compare stored.jsonl new.jsonl --atol 0 --rtol 1e-4\n"
      "  stuffed compare --list-metrics\n"
      "\n"
      "Both must be finished, of one command, one model and the same tokens (else exit code 3); "
      "documents are paired by the\n"
      "hash of their tokens, in whatever order they were read; trials and other records, by key. "
      "Other settings may differ\n"
      "(mitigations, dtype, device), and are listed. The interval is that of the paired "
      "difference: Student's t over documents\n"
      "(over buckets, for the mean of a single document), Newcombe's for shares of trials.\n");
  auto options = std::make_shared<CompareArguments>();
  app->add_option("a", options->a,
                  "The results to compare with (required, except with --list-metrics)")
      ->type_name("A.jsonl");
  app->add_option("b", options->b, "The results that may be worse (likewise)")
      ->type_name("B.jsonl");
  app->add_flag("--across-models", options->across_models,
                "Compare results of different models, over the same tokens");
  app->add_option("--fail-above", options->fail_above,
                  "Exit with code 1 if the metric NAME exceeds VALUE; repeatable")
      ->take_all()
      ->expected(1)
      ->type_name("NAME=VALUE")
      ->group("Limits");
  add_tolerance(*app, "--atol", options->atol,
                "Exit with code 1 if a row differs by more than X + --rtol times A's value "
                "(default: no limit)");
  add_tolerance(
      *app, "--rtol", options->rtol,
      "Relative part of that limit: a share of A's value (default: 0 if --atol is given)");
  app->add_flag("--list-metrics", options->list_metrics,
                "List the metrics that --fail-above takes, and exit")
      ->group("Limits");
  add_choice(*app, "--format", options->format, {"md", "json", "csv"},
             "md: a table for people, thinned out if it is long; json and csv: every row");
  commands.push_back({.app = app, .run = [options](Context&) { run_compare(*options); }});
}

}  // namespace stuffed::cli
