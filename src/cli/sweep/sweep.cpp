// `stuffed sweep`: cells of a TOML in worker processes, or what they would take.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <set>

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "src/cli/run/failure.h"
#include "src/cli/run/invocation.h"
#include "src/cli/sweep/estimate.h"
#include "src/cli/sweep/progress.h"
#include "stuffed/check/matmul_speed.h"
#include "stuffed/core/cores.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/error.h"
#include "stuffed/core/shown.h"
#include "stuffed/io/hub_cache.h"
#include "stuffed/io/in_use.h"
#include "stuffed/recurrence/recurrence.h"
#include "stuffed/sweep/folder.h"

namespace stuffed::cli {

namespace {

namespace fs = std::filesystem;

struct SweepArguments {
  std::string config, output, shard;
  int64_t jobs = 0;  // 0: one per GPU
  bool dry_run = false, worker = false;
};

/// Commands whose results are a journal that resumes, or is written anew.
std::optional<std::vector<std::string>> options_of_cell(const std::string& command) {
  static const std::set<std::string> kCommands = {"ppl-by-length", "state-stats", "retention",
                                                  "passkey",       "retrieval",   "train",
                                                  "verify",        "bench scan",  "bench model"};
  return kCommands.contains(command) ? options_of(command) : std::nullopt;
}

/// The files that mitigations read.
/// Errors  Usage for a mitigation that is not understood
std::vector<std::string> files_of_mitigations(const std::vector<std::string>& mitigations) {
  std::vector<std::string> files;
  build_recurrence({.mitigations = mitigations, .read_limits = [&](const std::string& file) {
                      files.push_back(file);
                      return at::zeros({1, 1});
                    }});
  return files;
}

/// The files that a cell reads, by option.
std::vector<std::pair<std::string, std::string>> files_of(const sweep::Cell& cell) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const char* key : {"text", "jsonl", "tokens", "held-out", "model-config"})
    if (const sweep::Setting* setting = cell.find(key))
      for (const std::string& value : setting->values)
        if (!value.starts_with('{'))
          files.emplace_back(key, value);
  for (const char* key : {"model", "tokenizer", "init-from"})
    if (const sweep::Setting* setting = cell.find(key))
      for (const std::string& value : setting->values)
        if (value != "bytes")
          files.emplace_back(key, io::find_checkpoint(value, key).string());
  if (const sweep::Setting* setting = cell.find("mitigation"))
    for (const std::string& file : files_of_mitigations(setting->values))
      files.emplace_back("mitigation", file);
  return files;
}

/// Errors  Usage, naming the cell, for options that its command refuses or files that are not there
void check_cell(const sweep::Cell& cell, const std::vector<std::string>& arguments) {
  const auto refuse = [&](std::string_view why) {
    fail(Error::Kind::Usage, "cell '{}': {}", cell.name, why);
  };
  try {
    std::vector<std::string> words = {"stuffed"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const Invocation understood(words);
    for (const auto& [key, file] : files_of(cell)) {
      std::error_code ignored;
      check(file != "-", Error::Kind::Usage, "{} = \"-\": a sweep has no standard input", key);
      check(fs::exists(file, ignored), Error::Kind::Usage, "{} = \"{}\": no such file or folder",
            key, file);
    }
  } catch (const Error& error) {
    refuse(error.what());
  }
}

/// Tokens that a cell's options name; 0 if they do not.
int64_t tokens_of(const sweep::Cell& cell) {
  const auto size = [&](const char* key) {
    const std::string text = cell.value(key);
    return text.empty() ? int64_t{0} : parse_size(text, key);
  };
  if (cell.command == "train")
    return size("steps") * std::max<int64_t>(1, size("batch")) *
           std::max<int64_t>(1, size("length"));
  int64_t tokens = size("length") * std::max<int64_t>(1, size("documents"));
  if (const sweep::Setting* lengths = cell.find("lengths"))
    for (const std::string& some : lengths->values)
      for (const int64_t length : parse_sizes(some, "lengths"))
        tokens += length;
  const std::string part = cell.value("part");
  return part.empty() ? tokens : tokens / sweep::parse_shard(part, "part").count;
}

/// What the options make of the folder and the cells: everything but running them.
struct Sweep {
  sweep::Folder folder;
  std::vector<sweep::Cell> all, own;  // own: of this shard
  std::vector<sweep::Job> jobs;       // of own
  size_t workers = 1;
  std::vector<std::string> gpus;
};

bool wants_gpu(const std::vector<sweep::Cell>& cells) {
  return std::ranges::any_of(cells,
                             [](const sweep::Cell& cell) { return cell.value("device") != "cpu"; });
}

/// CPU threads of each worker.
int64_t threads_of(size_t workers) {
  if (std::getenv("OMP_NUM_THREADS") != nullptr)
    return at::get_num_threads();
  return std::max<int64_t>(1, usable_cores() / static_cast<int64_t>(workers));
}

Sweep prepare(const SweepArguments& options, int64_t threads) {
  std::vector<sweep::Cell> cells = sweep::read_plan(options.config, options_of_cell);
  for (const sweep::Cell& cell : cells)  // before the folder is made
    check_cell(cell, cell.arguments(options.output));
  const sweep::Shard shard =
      options.shard.empty() ? sweep::shard_of_environment() : sweep::parse_shard(options.shard);
  Sweep sweep{.folder = sweep::Folder(options.output),
              .all = cells,
              .own = sweep::take_shard(cells, shard),
              .jobs = {},
              .gpus = {}};
  if (wants_gpu(cells))
    sweep.gpus = sweep::visible_gpus(at::hasCUDA() ? static_cast<int64_t>(at::getNumGPUs()) : 0);
  sweep.workers =
      options.jobs > 0 ? static_cast<size_t>(options.jobs) : std::max<size_t>(1, sweep.gpus.size());
  const int64_t per_worker = threads > 0 ? threads : threads_of(sweep.workers);
  for (const sweep::Cell& cell : sweep.own) {
    sweep.jobs.push_back(sweep.folder.job(cell));
    if (cell.find("threads") == nullptr)
      sweep.jobs.back().arguments.push_back(fmt::format("--threads={}", per_worker));
  }
  return sweep;
}

/// Without what is done.
std::vector<size_t> left_to_do(const Sweep& sweep) {
  std::vector<size_t> left;
  for (size_t i = 0; i < sweep.own.size(); ++i)
    if (!sweep.folder.is_done(sweep.own[i]))
      left.push_back(i);
  return left;
}

/// Seconds at half the speed of a large matrix product, measured once per device and dtype.
class Clockwork {
 public:
  double seconds(const sweep::Cell& cell, double flops) {
    const std::string device = cell.value("device").empty() ? "auto" : cell.value("device");
    const std::string dtype = cell.value("dtype").empty() ? "f32" : cell.value("dtype");
    const auto [at, is_new] = speeds_.emplace(device + dtype, 0.0);
    if (is_new)
      at->second = eval::matmul_speed(parse_device(device), parse_dtype(dtype));
    return flops / (0.5 * at->second);
  }

 private:
  std::map<std::string, double> speeds_;
};

constexpr const char* kPlanRow = "{:<48} {:<14} {:>16} {:>12} {:>12}  {}\n";

std::string gibibytes(int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
}

/// A cell with what is known of it before it runs.
struct Foreseen {
  const sweep::Cell* cell;
  bool is_done = false;
  std::optional<Estimate> estimate = {};
  double guess_seconds = 0;             // by its FLOPs
  std::optional<double> took = {};      // if it is done
  std::optional<double> measured = {};  // by what finished cells took
  double seconds() const { return took.value_or(measured.value_or(guess_seconds)); }
};

std::vector<Foreseen> foresee(const Sweep& sweep) {
  Clockwork clockwork;
  Estimates estimates;
  Rates rates;
  std::vector<Foreseen> rows;
  for (size_t i = 0; i < sweep.own.size(); ++i) {
    Foreseen row{.cell = &sweep.own[i]};
    row.is_done = sweep.folder.is_done(*row.cell);
    row.estimate = estimates.of(row.cell->command, sweep.jobs[i].arguments);
    if (row.estimate)
      row.guess_seconds = clockwork.seconds(*row.cell, row.estimate->flops);
    if (row.is_done)
      row.took = sweep.folder.seconds(*row.cell);
    if (row.took)
      rates.add(*row.cell, row.guess_seconds, *row.took);
    rows.push_back(row);
  }
  for (Foreseen& row : rows)
    if (row.estimate && rates.knows(*row.cell))
      row.measured = rates.seconds(*row.cell, row.guess_seconds);
  return rows;
}

void print_row(const Foreseen& row) {
  std::string tokens = "-", memory = "-", hours = "-";
  if (row.estimate) {
    tokens = fmt::format("{}", row.estimate->tokens);
    memory = gibibytes(row.estimate->memory_bytes);
  }
  if (row.estimate || row.took)
    hours = fmt::format("{:.4g}", row.seconds() / 3600);
  cli::print(stdout, kPlanRow, row.cell->name, row.cell->command, tokens, memory, hours,
             row.is_done ? "done" : "planned");
}

void print_plan(const Sweep& sweep) {
  const std::vector<Foreseen> rows = foresee(sweep);
  cli::print(stdout, kPlanRow, "cell", "command", "tokens", "memory", "hours", "status");
  int64_t tokens = 0, memory = 0;
  double hours = 0;
  size_t unknown = 0, done = 0, guessed = 0, measured = 0;
  for (const Foreseen& row : rows) {
    print_row(row);
    done += row.is_done;
    if (!row.estimate)
      ++unknown;
    else
      memory = std::max(memory, row.estimate->memory_bytes);
    if (row.is_done || !row.estimate)
      continue;
    tokens += row.estimate->tokens;
    hours += row.seconds() / 3600;
    ++(row.measured ? measured : guessed);
  }
  cli::print(
      stdout,
      "{} of {} cells, {} done. Left: {} tokens, at most {} at a time, about {:.4g} hours of "
      "one worker, {:.4g} with {}{}\n",
      rows.size(), sweep.all.size(), done, tokens, gibibytes(memory), hours,
      hours / static_cast<double>(sweep.workers), sweep.workers,
      unknown > 0 ? fmt::format("; {} cells cannot be estimated", unknown) : "");
  if (measured > 0)
    cli::print(
        stdout,
        "Hours of {} cells are estimated from finished cells of the same command in this folder.\n",
        measured);
  if (guessed > 0)
    cli::print(stdout,
               "Hours of {} cells are a guess without any measurement of such a cell: two FLOPs "
               "per parameter and token at half the speed of\n"
               "a large matrix product, measured now. Small models take many times as long; run "
               "one cell of each command, then repeat the dry run.\n",
               guessed);
}

/// The code of the failing cells if they agree, else 1.
int code_of(const std::vector<int>& codes) {
  const auto fails = std::ranges::find_if(codes, [](int code) { return code != 0; });
  if (fails == codes.end())
    return 0;
  const bool agree =
      std::ranges::all_of(codes, [&](int code) { return code == 0 || code == *fails; });
  return agree ? *fails : 1;
}

/// Seconds per token of the cells that are done.
Rates measured_rates(const Sweep& sweep) {
  Rates rates;
  for (const sweep::Cell& cell : sweep.own)
    if (const std::optional<double> seconds = sweep.folder.seconds(cell))
      rates.add(cell, static_cast<double>(tokens_of(cell)), *seconds);
  return rates;
}

void run_cells(const Sweep& sweep, const std::string& program) {
  sweep.folder.write_plan(sweep.all);
  const std::vector<size_t> left = left_to_do(sweep);
  std::vector<sweep::Job> jobs;
  std::vector<PlannedWork> work;
  for (const size_t i : left) {
    jobs.push_back(sweep.jobs[i]);
    work.push_back({.cell = sweep.own[i], .tokens = tokens_of(sweep.own[i])});
  }
  SweepProgress progress(work, sweep.workers, sweep.own.size() - left.size(),
                         measured_rates(sweep));
  std::vector<int> codes;
  size_t elsewhere = 0;
  const sweep::PoolOptions how{.workers = std::min(sweep.workers, std::max<size_t>(1, jobs.size())),
                               .program = {program, "sweep", "--worker"},
                               .gpus = sweep.gpus};
  const sweep::PoolWatch watch{
      .on_start = [&](size_t job) { progress.on_start(job); },
      .on_progress = [&](size_t job, int64_t fed) { progress.on_progress(job, fed); },
      .on_end =
          [&](size_t job, const sweep::Outcome& outcome) {
            progress.on_end(job, outcome);
            codes.push_back(outcome.exit_code);
            elsewhere += outcome.is_elsewhere;
            if (!outcome.is_elsewhere)
              sweep.folder.record(sweep.own[left[job]], outcome);
          },
      .on_tick = [&] { progress.show(); }};
  const auto close = [&] {
    progress.finish();
    sweep.folder.write_plan(sweep.all);
  };
  try {
    run_jobs(jobs, how, watch);
  } catch (...) {
    close();
    throw;
  }
  close();
  const auto failed = std::ranges::count_if(codes, [](int code) { return code != 0; });
  cli::print(stdout, "{} of {} cells done, {} failed{}\n",
             sweep.own.size() - static_cast<size_t>(failed) - elsewhere, sweep.own.size(), failed,
             elsewhere > 0 ? fmt::format(", {} left to another process", elsewhere) : "");
  if (const int code = code_of(codes); code != 0)
    throw Error(
        static_cast<Error::Kind>(code),
        fmt::format("{} failed; {}/*.error.json and {}/sweep.json say why", counted(failed, "cell"),
                    sweep.folder.path().string(), sweep.folder.path().string()));
}

/// The worker's side.
sweep::Served run_cell(const std::vector<std::string>& arguments, Context& context) {
  sweep::Served served;
  try {
    context.command_line = {"stuffed"};
    context.command_line.insert(context.command_line.end(), arguments.begin(), arguments.end());
    Invocation(context.command_line).run(context);
    std::fflush(stdout);
  } catch (const std::exception& error) {
    const Failure failure = failure_of(error);
    served.in_use = dynamic_cast<const io::InUse*>(&error) != nullptr;
    served.exit_code = failure.exit_code;
    served.error = failure.message;
    // After these the process is not what it was.
    served.start_anew = failure.exit_code == static_cast<int>(Error::Kind::Memory) ||
                        failure.exit_code == static_cast<int>(Error::Kind::Internal);
    cli::print(stderr, "stuffed: {}\n", failure.message);
    std::fflush(stderr);
  }
  return served;
}

void run_sweep(const SweepArguments& options, int64_t threads, Context& context) {
  if (options.worker)
    return sweep::serve_cells(
        [&](const std::vector<std::string>& arguments) { return run_cell(arguments, context); });
  check(!options.config.empty() && !options.output.empty(), Error::Kind::Usage,
        "sweep: CONFIG.toml and -o DIR are required\nRun 'stuffed sweep --help' for the options.");
  const Sweep sweep = prepare(options, threads);
  if (options.dry_run)
    return print_plan(sweep);
  run_cells(sweep, fs::read_symlink("/proc/self/exe").string());
}

}  // namespace

void add_sweep(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "sweep",
      "Run commands over a grid of models, lengths, mitigations or any other options: cells of a "
      "TOML file, spread over processes, GPUs and machines; finished cells are skipped",
      "  stuffed sweep models.toml -o out/models --dry-run\n"
      "  stuffed sweep models.toml -o out/models --jobs 2\n"
      "  stuffed sweep models.toml -o out/models --shard 0/8\n"
      "\n"
      "[defaults] holds options of all runs; each [[runs]] has a command (ppl-by-length, "
      "state-stats, retention, passkey, retrieval, train,\n"
      "verify, bench scan, bench model), its options as in --config, and a grid whose every key is "
      "an axis and every element of\n"
      "its array a value (which may be an array):\n"
      "  [defaults]\n"
      "  text = \"war.txt\"\n"
      "  [[runs]]\n"
      "  command = \"ppl-by-length\"\n"
      "  name = \"{model}-{length}-{mitigation}\"\n"
      "  [runs.grid]\n"
      "  model = [\"mamba2-130m\", \"mamba2-370m\"]\n"
      "  length = [\"64K\", \"1M\"]\n"
      "  mitigation = [[], [\"rri\"], [\"rri\", \"sliding_window:tokens=4096\"]]\n"
      "  [[runs.except]]\n"
      "  model = \"mamba2-130m\"\n"
      "  length = \"1M\"\n"
      "[[runs.only]] keeps only the cells that match one of its tables, [[runs.except]] drops "
      "those that match. A run without a\n"
      "name takes it from its axes. Results go to DIR/NAME.jsonl (of train: DIR/NAME/), what a "
      "cell prints to DIR/NAME.log, an\n"
      "error to DIR/NAME.error.json; DIR/sweep.json has the plan and the status of each cell. The "
      "files of per-token and arrays\n"
      "may have {name} in their names, and lie in DIR.\n"
      "If the sweep is stopped or killed, run it again. Cells that another process is running are "
      "left to that process, so shards may overlap.\n"
      "Exit code: 0 if all cells are done; 75 if stopped; else that of the failed cells if they "
      "agree, else 1.\n");
  auto options = std::make_shared<SweepArguments>();
  app->add_option("sweep", options->config, "TOML file that describes the sweep (required)")
      ->type_name("CONFIG.toml");
  app->add_option("-o,--output", options->output,
                  "Folder for the results, created if missing (required)")
      ->type_name("DIR");
  app->add_option("--shard", options->shard,
                  "Run only cells i, i+n, i+2n, ... (default: those of this task of a Slurm array, "
                  "else all)")
      ->type_name("i/n");
  add_count(*app, "--jobs", options->jobs,
            "Number of cells run at a time, each in its own process, on the GPUs in turn (default: "
            "one per GPU, else 1)");
  app->add_flag(
      "--dry-run", options->dry_run,
      "Print the cells with their tokens, memory and hours, and exit; loads no weights. Hours are "
      "estimated from finished cells of the same command in DIR, else from FLOPs");
  app->add_flag("--worker", options->worker, "A process of a sweep")->group("");
  commands.push_back(
      {.app = app,
       .run = [options,
               app](Context& context) { run_sweep(*options, threads_asked(*app), context); },
       .resumable = true});
}

}  // namespace stuffed::cli
