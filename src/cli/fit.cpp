// `stuffed fit`: options, and the tables of points and coefficients.
#include "stuffed/eval/fit.h"

#include <cstdio>
#include <memory>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "src/cli/progress_line.h"
#include "src/cli/table.h"
#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/provenance.h"

namespace stuffed::cli {

namespace {

struct FitArguments {
  eval::FitOptions how;
  std::vector<std::string> results;
  std::string rule = "ssm+conv3", output;
  int64_t bootstrap = 2000;
  uint64_t seed = 0;
  bool published = false, overwrite = false;
  std::vector<CLI::Option*> of_results = {};  // options that say how results are read
};

eval::StateRule rule_of(const std::string& name) {
  return name == "ssm"         ? eval::StateRule::Recurrence
         : name == "ssm+conv3" ? eval::StateRule::CarriedInputs
                               : eval::StateRule::WholeWidth;
}

const char* name_of(eval::Law law) {
  return law == eval::Law::Forget ? "forget" : "recall";
}

void check_arguments(const FitArguments& options) {
  check(options.published == options.results.empty(), Error::Kind::Usage,
        "give either results or --published");
  if (!options.published)
    return;
  check(options.how.law == eval::Law::Forget, Error::Kind::Usage,
        "--published: of recall the paper prints no points, only its curve, which every fit is "
        "compared with; give results");
  for (const CLI::Option* option : options.of_results)
    check(option->count() == 0, Error::Kind::Usage,
          "{}: says how results are read; the points of --published are as they are",
          option->get_name());
}

io::json config_of(const FitArguments& options) {
  io::json results = io::json::array();
  for (const std::filesystem::path& path : options.how.results)
    results.push_back(sha256_file(path));
  const bool is_recall = options.how.law == eval::Law::Recall;
  return {{"law", name_of(options.how.law)},
          {"published", options.published},
          {"results_sha256", results},
          {"state_rule", options.published ? io::json() : io::json(options.rule)},
          {"threshold", is_recall ? io::json(options.how.threshold) : io::json()},
          {"training_seeds", options.how.training_seeds},
          {"bootstrap", options.bootstrap},
          {"seed", options.seed}};
}

/// "<= 8192"
std::string bound_text(const eval::FitPoint& point) {
  const char* const sign = point.censored == "at most"    ? "<= "
                           : point.censored == "at least" ? ">= "
                                                          : "";
  return fmt::format("{}{}", sign, point.tokens);
}

std::string or_dash(const auto& value) {
  return value ? fmt::format("{}", *value) : "-";
}

std::string table_of_points(const eval::FitData& data) {
  std::string table = fmt::format("{:>15} {:>8} {:>12} {:>21}\n", "state elements", "seed",
                                  "tokens", "low to high");
  for (const eval::FitPoint& point : data.points) {
    table += fmt::format("{:>15} {:>8} {:>12} {:>21}\n", point.state_elements, or_dash(point.seed),
                         bound_text(point),
                         or_dash(point.low_tokens) + " to " + or_dash(point.high_tokens));
    for (const int64_t length : point.collapse_beyond_tokens)
      table += fmt::format("{:>15} collapses when trained at {} all the same\n", "", length);
  }
  return table;
}

std::string table_of_coefficients(const io::json& summary) {
  const io::json &paper = summary.at("paper"), &bootstrap = summary.at("bootstrap");
  std::string table = fmt::format(
      "\n{}, S in millions of elements, T in thousands of tokens\n{:>4} {:>10} {:>23} {:>10} "
      "{:>11}\n",
      summary.at("form").get<std::string>(), "", "value", "95 % interval", "paper", "difference");
  for (const auto& [name, found] : summary.at("coefficients").items())
    table +=
        fmt::format("{:>4} {:>10} {:>23} {:>10} {:>+11.4g}\n", name, cell(found.at("value"), "-"),
                    cell(found.at("low"), "-") + " to " + cell(found.at("high"), "-"),
                    cell(paper.at("coefficients").at(name), "-"),
                    paper.at("difference").at(name).get<double>());
  return table + fmt::format(
                     "R\u00b2 {} (the paper says above {:g}); {} of {} draws decide no "
                     "curve\n",
                     summary.at("r_squared").is_number()
                         ? fmt::format("{:.4f}", summary.at("r_squared").get<double>())
                         : "-",
                     paper.at("r_squared_above").get<double>(),
                     bootstrap.at("undetermined").get<int64_t>(),
                     bootstrap.at("draws").get<int64_t>());
}

void write(const FitArguments& options,
           const eval::FitData& data,
           const io::json& summary,
           const Context& context) {
  io::Journal journal =
      io::Journal::open_anew(options.output,
                             {.schema = eval::kFitSchema,
                              .version = eval::kFitVersion,
                              .config = config_of(options),
                              .provenance = io::provenance(context.command_line, at::kCPU)},
                             options.overwrite);
  for (size_t i = 0; i < data.models.size(); ++i)
    journal.append(fmt::format("model={}", i), data.models[i]);
  for (const eval::FitPoint& point : data.points) {
    const auto& [key, record] = eval::record_of(point);
    journal.append(key, record);
  }
  journal.append("summary", summary);
  journal.finish();
}

void run_fit(FitArguments options, const Context& context) {
  check_arguments(options);
  options.how.rule = rule_of(options.rule);
  io::OutputGuard guard;
  for (const std::string& path : options.results) {
    guard.reads("FILES", path);
    options.how.results.emplace_back(path);
  }
  guard.writes("-o", options.output);
  std::FILE* const shown = options.output == "-" ? stderr : stdout;
  const eval::FitData data = eval::read_fit_data(options.how);
  if (!data.settings_that_differ.empty())
    cli::print(stderr, "fit: the results differ in {}\n",
               fmt::join(data.settings_that_differ, ", "));
  cli::print(shown, "{}", table_of_points(data));
  ProgressLine line("draws");
  io::json summary =
      eval::fit_law(options.how.law, data.points, options.bootstrap, options.seed,
                    [&](int64_t done) { line.show("bootstrap", done, options.bootstrap, done); });
  line.end();
  summary["settings_that_differ"] = data.settings_that_differ;
  write(options, data, summary, context);
  cli::print(shown, "{}", table_of_coefficients(summary));
}

void add_law(CLI::App& fit,
             Commands& commands,
             eval::Law law,
             const char* description,
             const std::string& examples) {
  CLI::App* app = add_subcommand(fit, name_of(law), description, examples);
  auto options = std::make_shared<FitArguments>();
  options->how.law = law;
  app->add_option("results", options->results,
                  law == eval::Law::Forget
                      ? "Journals of ppl-by-length, a model each, or merged sweeps of them"
                      : "Journals of passkey, a model each, or merged sweeps of them")
      ->type_name("FILES");
  app->add_flag("--published", options->published,
                law == eval::Law::Forget
                    ? "Fit the points of the paper's figure instead, read off the picture"
                    : "Refused: the paper prints no points of recall");
  options->of_results = {
      add_choice(*app, "--state-rule", options->rule, {"ssm", "ssm+conv3", "ssm+conv4"},
                 "What counts as state: the recurrence alone; with the W-1 columns that a "
                 "convolution of width W carries (the paper's, by its points), or the shifted "
                 "rows; with all W columns"),
      app->add_option("--training-seed", options->how.training_seeds,
                      "Training seed of a result's model, in the order of the results, where its "
                      "journal does not say; repeatable")
          ->take_all()
          ->expected(1)
          ->check(CLI::NonNegativeNumber.description(""))
          ->type_name("N")};
  if (law == eval::Law::Recall)
    options->of_results.push_back(
        app->add_option("--threshold", options->how.threshold,
                        "Accuracy that a length must exceed, as must all shorter ones")
            ->check(CLI::Range(0.0, 1.0).description(""))
            ->capture_default_str()
            ->type_name("SHARE"));
  add_count(*app, "--bootstrap", options->bootstrap,
            "Draws of which the intervals are made; 0: none", 0);
  add_seed(*app, options->seed, "Seed of the draws");
  add_journal(*app, "-o,--output", options->output,
              "Points, coefficients and curve, JSON Lines, written anew each time; - is standard "
              "output")
      ->required();
  app->add_flag("--overwrite", options->overwrite, "Replace the results of another fit, too");
  commands.push_back(
      {.app = app, .run = [options](Context& context) { run_fit(*options, context); }});
}

}  // namespace

void add_fit(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "fit",
      "Fit the paper's two laws to results: the training length that a state of some size needs to "
      "forget, and how far it recalls",
      "  stuffed fit forget --help\n  stuffed fit recall --help\n"
      "\nPoints that are only bounds (a size all of whose models collapse, say) count by their "
      "likelihood; docs/fit.md says how.\n");
  app->require_subcommand(1);
  add_law(*app, commands, eval::Law::Forget,
          "Fit T = a S + b: T is the shortest training length without collapse, S the state's size",
          "  stuffed fit forget out/1K-*.jsonl out/2K-*.jsonl out/4K-*.jsonl -o forget.jsonl\n"
          "  stuffed fit forget --published -o paper.jsonl\n"
          "\nA result is a run of ppl-by-length with --train-len, read to at least 8 training "
          "lengths; collapse is by its rule.\nFewer than three sizes and seeds whose threshold "
          "lies between two lengths are exit code 3.\n");
  add_law(*app, commands, eval::Law::Recall,
          "Fit T = a (c^S - 1) + b: T is the longest prompt whose passkey is found, S the state's "
          "size",
          "  stuffed fit recall out/passkey-*.jsonl -o recall.jsonl\n"
          "  stuffed fit recall sweep.jsonl --threshold 0.9 --state-rule ssm -o recall.jsonl\n"
          "\nOf models of one size and seed the one that recalls farthest counts. Fewer than three "
          "that fail at a length are\nexit code 3.\n");
}

}  // namespace stuffed::cli
