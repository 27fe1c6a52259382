// `stuffed bench`: options, and the table of what was measured.
#include "stuffed/check/bench.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/error.h"
#include "stuffed/io/hub_cache.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/provenance.h"
#include "stuffed/models/family.h"
#include "stuffed/models/shapes.h"

namespace stuffed::cli {

namespace {

/// What `bench scan` and `bench model` share.
struct Options {
  std::string device = "auto", dtype = "auto", impl = "auto", output;
  int64_t warmup = 3, repeats = 20;
  uint64_t seed = 0;
  bool no_ceilings = false, broken = false, overwrite = false;
  std::vector<int64_t> batches = {1}, lengths = {8192};
};

struct ScanOptions : Options {
  std::vector<std::string> families;
  int64_t heads = 0, key_width = 0, value_width = 0;
};

struct ModelBenchOptions : Options {
  std::string model, shape, gated_norm;
  std::vector<std::string> phases;
  int64_t decode_steps = 32;
};

eval::BenchOptions how(const Options& options) {
  const at::Device device = parse_device(options.device);
  const std::string dtype = options.dtype != "auto" ? options.dtype
                            : device.is_cuda()      ? "bf16"
                                                    : "f32";
  return {.device = device,
          .dtype = parse_dtype(dtype),
          .impl = ops::parse_impls(options.impl),
          .warmup = options.warmup,
          .repeats = options.repeats,
          .ceilings = !options.no_ceilings,
          .seed = options.seed,
          .broken = options.broken};
}

std::string number(const io::json& fields, const char* key, double scale, const char* format) {
  const auto found = fields.find(key);
  return found == fields.end() || !found->is_number()
             ? "-"
             : fmt::format(fmt::runtime(format), found->get<double>() * scale);
}

/// What a row ends with, if there is anything to say.
std::string remark(const io::json& fields) {
  const std::string verdict = fields.at("verdict");
  if (verdict != "timed")
    return verdict + " " + fields.value("check", io::json()).dump();
  return fields.value("ceilings_mismeasured", false)
             ? "faster than its floor: the ceilings were mismeasured, run again on an idle machine"
             : "";
}

/// The journal and the table; counts what was not timed, for the exit code.
class Report {
 public:
  Report(const Options& options, const eval::BenchOptions& how, io::json config, Context& context)
      : table_(options.output == "-" ? stderr : stdout) {
    config["device"] = how.device.is_cuda() ? "cuda" : "cpu";
    config["dtype"] = dtype_name(how.dtype);
    config["impl"] = how.impl.name();
    config["repeats"] = how.repeats;
    config["warmup"] = how.warmup;
    config["seed"] = how.seed;
    config["batches"] = options.batches;
    config["lengths_tokens"] = options.lengths;
    if (!options.output.empty())
      journal_ =
          io::Journal::open_anew(options.output,
                                 {.schema = eval::kBenchSchema,
                                  .version = eval::kBenchVersion,
                                  .config = config,
                                  .provenance = io::provenance(context.command_line, how.device)},
                                 options.overwrite);
    cli::print(table_, kRow, "measurement", "ns/tok/layer", "tokens/s", "spread", "of floor",
               "GB/s", "TFLOP/s", "peak MiB", "");
  }

  void add(const eval::BenchRecord& record) {
    const io::json& fields = record.fields;
    const std::string verdict = fields.at("verdict");
    refused_ += verdict == "REFUSED";
    no_memory_ += verdict == "out of memory";
    cli::print(table_, kRow, record.key, number(fields, "ns_per_token_per_layer", 1, "{:.2f}"),
               number(fields, "tokens_per_s", 1, "{:.0f}"),
               number(fields, "spread", 100, "{:.1f} %"),
               number(fields, "floor_fraction", 100, "{:.1f} %"),
               number(fields, "least_bytes_per_s", 1e-9, "{:.1f}"),
               number(fields, "flops_per_s", 1e-12, "{:.2f}"),
               number(fields, "peak_memory_bytes", 1.0 / (1 << 20), "{:.0f}"), remark(fields));
    std::fflush(table_);
    if (journal_)
      journal_->append(record.key, fields);
  }

  void finish() {
    if (journal_)
      journal_->finish();
    check(refused_ == 0, Error::Kind::Disagreement,
          "{} measurements REFUSED: the implementation is wrong at these shapes", refused_);
    check(no_memory_ == 0, Error::Kind::Memory, "{} measurements did not fit in memory",
          no_memory_);
  }

 private:
  static constexpr const char* kRow = "{:<58} {:>12} {:>10} {:>8} {:>9} {:>8} {:>8} {:>9}  {}\n";
  std::FILE* table_;
  std::optional<io::Journal> journal_;
  int64_t refused_ = 0, no_memory_ = 0;
};

void run_scan(const ScanOptions& options, Context& context) {
  const eval::BenchOptions shared = how(options);
  const bool all = std::ranges::find(options.families, "all") != options.families.end();
  std::vector<eval::ScanCase> cases;
  for (const std::string& family : all ? family_names() : options.families)
    for (const int64_t batch : options.batches)
      for (const int64_t length : options.lengths)
        cases.push_back({.family = family,
                         .batch = batch,
                         .tokens = length,
                         .heads = options.heads,
                         .key_width = options.key_width,
                         .value_width = options.value_width});
  Report report(options, shared,
                {{"kind", "scan"},
                 {"families", options.families},
                 {"heads", options.heads},
                 {"key_width", options.key_width},
                 {"value_width", options.value_width}},
                context);
  eval::bench_scan(cases, shared, [&](const eval::BenchRecord& record) { report.add(record); });
  report.finish();
}

void run_model(const ModelBenchOptions& options, Context& context) {
  check(options.model.empty() != options.shape.empty(), Error::Kind::Usage,
        "give either --model or --shape");
  io::OutputGuard guard;
  guard.reads_model("--model", options.model);
  guard.writes("-o", options.output);
  const eval::BenchOptions shared = how(options);
  std::vector<eval::ModelCase> cases;
  for (const std::string& phase : options.phases)
    for (const int64_t batch : options.batches)
      for (const int64_t length : options.lengths)
        cases.push_back({.phase = eval::parse_phase(phase), .batch = batch, .tokens = length});
  Reading reading;
  if (!options.gated_norm.empty())
    reading.gated_norm = options.gated_norm;
  const LoadOptions load{.dtype = shared.dtype, .device = shared.device, .reading = reading};
  const auto model = options.shape.empty() ? load_model(options.model, load)
                                           : random_model(options.shape, options.seed, load);
  say_warnings(model->config());
  const auto snapshot = io::snapshot_of(options.model);
  const std::string name = !options.shape.empty() ? options.shape
                           : snapshot             ? snapshot->name
                                      : std::filesystem::path(options.model).filename().string();
  Report report(options, shared,
                {{"kind", "model"},
                 {"model", name},
                 {"sha256", model->config().hash},
                 {"phases", options.phases},
                 {"decode_steps", options.decode_steps}},
                context);
  eval::bench_model(*model, name, cases, options.decode_steps, shared,
                    [&](const eval::BenchRecord& record) { report.add(record); });
  report.finish();
}

void add_shared_options(CLI::App& app, Options& options, const char* tokens_help) {
  add_sizes(app, "--batch", options.batches, "Sequences per batch (default: 1)")
      ->type_name("N,...")
      ->group("Cases");
  add_sizes(app, "--tokens", options.lengths, tokens_help)->group("Cases");
  const char* const group = "Measurement";
  add_device(app, options.device, "auto: the first GPU if there is one, else the CPU")
      ->group(group);
  add_choice(app, "--dtype", options.dtype, {"auto", "f32", "bf16"},
             "auto: bf16 on a GPU, f32 on the CPU")
      ->group(group);
  add_impl(app, options.impl)->group(group);
  add_count(app, "--repeats", options.repeats,
            "Number of timed runs; their median, p10 and p90 are reported")
      ->group(group);
  add_count(app, "--warmup", options.warmup, "Number of untimed runs beforehand", 0)->group(group);
  app.add_flag("--no-ceilings", options.no_ceilings,
               "Do not measure the speeds of a copy and of a matrix product first; no floors are "
               "then reported")
      ->group(group);
  add_seed(app, options.seed, "Seed of inputs and random weights")->group(group);
  add_journal(app, "-o,--output", options.output,
              "Results, JSON Lines, rewritten by every run; - is standard output")
      ->group(group);
  app.add_flag("--overwrite", options.overwrite, "Replace even the results of other measurements")
      ->group(group);
  app.add_flag("--break", options.broken,
               "For tests: makes the recurrence 1 % wrong, which must be refused with exit code 1")
      ->group("");
}

void add_scan(CLI::App& bench, Commands& commands) {
  CLI::App* app = add_subcommand(
      bench, "scan", "Time one call of the recurrence on random inputs, with caches flushed",
      "  stuffed bench scan --family rwkv6 --tokens 8K,32K,128K --batch 1,8 -o scan.jsonl\n"
      "  stuffed bench scan --family all --tokens 1K --device cpu --repeats 10\n");
  auto options = std::make_shared<ScanOptions>();
  std::vector<std::string> families = family_names();
  families.emplace_back("all");
  app->add_option("--family", options->families,
                  "One or more families, separated by commas, or all")
      ->required()
      ->delimiter(',')
      ->check(CLI::IsMember(families).description(""))
      ->type_name(fmt::format("{}", fmt::join(families, "|")))
      ->group("Cases");
  add_shared_options(*app, *options, "Tokens per call (default: 8K)");
  for (const auto& [flag, home, what] :
       {std::tuple{"--heads", &options->heads,
                   "Heads (default: those of the family's model of about 1.5B)"},
        std::tuple{"--key-width", &options->key_width,
                   "State rows per head (default: as published)"},
        std::tuple{"--value-width", &options->value_width,
                   "State columns per head (default: as published)"}})
    add_count(*app, flag, *home, what)->group("Cases");
  commands.push_back(
      {.app = app, .run = [options](Context& context) { run_scan(*options, context); }});
}

void add_model(CLI::App& bench, Commands& commands) {
  CLI::App* app = add_subcommand(
      bench, "model",
      "Time a model: prefill of a segment, the evaluation loop (prefill, logits and cross "
      "entropy), and decoding",
      "  stuffed bench model --shape mamba2-1.3b --tokens 8K,64K -o mamba2.jsonl\n"
      "  stuffed bench model --model RWKV-x060-World-1B6.pth --phase decode --batch 1,16,64\n"
      "  stuffed bench model --shape mamba2-130m --device cpu --tokens 512 --repeats 10\n");
  auto options = std::make_shared<ModelBenchOptions>();
  options->phases = {"prefill", "evaluate", "decode"};
  add_checkpoint(*app, "--model", options->model,
                 "Folder or weight file, or a repository in Hugging Face's cache")
      ->group("Cases");
  add_gated_norm(*app, options->gated_norm, "Cases");
  app->add_option("--shape", options->shape,
                  "Use random weights in this published shape, instead of --model")
      ->check(CLI::IsMember(shape_names()).description(""))
      ->type_name(fmt::format("{}", fmt::join(shape_names(), "|")))
      ->group("Cases");
  app->add_option("--phase", options->phases,
                  "One or more phases, separated by commas (default: all three)")
      ->delimiter(',')
      ->check(CLI::IsMember({"prefill", "evaluate", "decode"}).description(""))
      ->type_name("prefill|evaluate|decode")
      ->group("Cases");
  add_count(*app, "--decode-steps", options->decode_steps, "Tokens decoded per repeat")
      ->group("Cases");
  add_shared_options(
      *app, *options,
      "Tokens per segment; before decoding at most 512 of them are fed (default: 8K)");
  commands.push_back(
      {.app = app, .run = [options](Context& context) { run_model(*options, context); }});
}

}  // namespace

void add_bench(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "bench",
      "Measure speed, and compare it with what the machine allows. A result that fails its "
      "accuracy check is not timed (exit code 1).",
      "  stuffed bench scan --help\n  stuffed bench model --help\n"
      "\n"
      "The floor of a measurement is the time to move the fewest bytes it needs at the speed of a "
      "large copy, or its FLOPs at the speed\n"
      "of a large matrix product, whichever is longer; both speeds are measured first, on the same "
      "device.\n");
  app->require_subcommand(1);
  add_scan(*app, commands);
  add_model(*app, commands);
}

}  // namespace stuffed::cli
