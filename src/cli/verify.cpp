// `stuffed verify`: do all ways of computing the same numbers agree on this machine?
#include "stuffed/check/verify.h"

#include <algorithm>
#include <cstdio>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/error.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/provenance.h"
#include "stuffed/io/token_source.h"
#include "stuffed/models/family.h"
#include "stuffed/models/registry.h"
#include "stuffed/ops/op.h"

namespace stuffed::cli {

namespace {

struct Options {
  ModelOptions model;  // of these: model, tokenizer, device, seed
  bool kernels = false;
  std::string text, dtype = "both", op, family = "all", output, broken = "none";
  int64_t length = 256, piece = 8192;
  std::vector<int64_t> segments = {1, 37, 512}, long_lengths;
  bool no_long = false, overwrite = false;
};

std::vector<at::Device> devices_of(const std::string& name) {
  if (name != "auto")
    return {parse_device(name)};
  std::vector<at::Device> devices = {at::kCPU};
  if (at::hasCUDA() && at::getNumGPUs() > 0)
    devices.push_back(at::Device("cuda:0"));
  return devices;
}

std::vector<at::ScalarType> dtypes_of(const std::string& name) {
  if (name == "both")
    return {at::kFloat, at::kBFloat16};
  return {parse_dtype(name)};
}

/// [1,N+1] ids: of the text, or drawn.
Tensor stream_of(const Options& options, int64_t vocab) {
  if (options.text.empty()) {
    const at::Generator generator = at::detail::createCPUGenerator(options.model.seed);
    return at::randint(0, vocab, {1, options.length + 1}, generator, at::TensorOptions(at::kLong));
  }
  io::SourceOptions where;
  where.text = {options.text};
  where.length = options.length;
  io::TokenSource source = io::TokenSource::open(where, open_tokenizer(options.model), vocab);
  const io::Document document = source.next().value();
  return at::tensor(at::ArrayRef<int32_t>(document.tokens), at::kLong).unsqueeze(0);
}

constexpr const char* kRow =
    "{:<34} {:<5} {:<5} {:<10} {:<20} {:>9} {:>10} {:>10} {:>10} {:>10}  {}\n";

void print_head(std::FILE* out) {
  cli::print(out, kRow, "subject", "on", "dtype", "impl", "fed", "tokens", "output", "bound",
             "state", "bound", "verdict");
}

void print_row(std::FILE* out, const eval::Verdict& v) {
  const auto number = [&](double x) { return v.ran() ? fmt::format("{:.2e}", x) : "-"; };
  std::string verdict = v.outcome();
  if (!v.ran())
    verdict += ": " + v.not_run;
  else if (v.cases == 1)
    verdict += " with " + v.against;
  else
    verdict += fmt::format(" with {} ({} cases; worst: {})", v.against, v.cases, v.worst);
  cli::print(out, kRow, v.subject, v.device, v.dtype, v.impl, v.path, v.tokens,
             number(v.output_error), number(v.output_bound), number(v.state_error),
             number(v.state_bound), verdict);
  std::fflush(out);
}

/// Rows as they come, in the table and in the journal; what is running, on stderr.
struct Report {
  std::optional<io::Journal> journal;
  std::FILE* table = stdout;
  int64_t agree = 0, disagree = 0, not_run = 0;

  void operator()(const eval::Verdict& v, bool done) {
    if (!done) {
      cli::print(stderr, "verify: {}, {} {} {}, {} ...\n", v.subject, v.device, v.dtype, v.impl,
                 v.path);
      return;
    }
    ++(!v.ran() ? not_run : v.agrees() ? agree : disagree);
    print_row(table, v);
    if (journal)
      journal->append(v.key(), v.record());
  }
};

std::vector<std::string> names_of(const std::vector<at::Device>& devices) {
  std::vector<std::string> names;
  for (const at::Device device : devices)
    names.push_back(device.is_cuda() ? "cuda" : "cpu");
  return names;
}

/// The row that says which half of the comparison this machine cannot make.
void report_absent_gpu(const Options& options, const std::string& subject, Report& report) {
  if (options.model.device != "auto" || devices_of("auto").size() > 1)
    return;
  eval::Verdict absent;
  absent.subject = subject;
  absent.device = "cuda";
  absent.dtype = options.kernels ? "both" : options.dtype;
  absent.impl = "cuda";
  absent.path = "all";
  absent.not_run = "no GPU is visible";
  report(absent, true);
}

eval::OpenModel opener(const ModelOptions& options) {
  return [path = options.model, reading = reading_of(options)](at::Device device,
                                                               at::ScalarType dtype) {
    return load_model(path, {.dtype = dtype, .device = device, .reading = reading});
  };
}

void run_model(const Options& options, const RecurrentLM& skeleton, Report& report) {
  const eval::VerifyModelOptions how{.devices = devices_of(options.model.device),
                                     .dtypes = dtypes_of(options.dtype),
                                     .segments = options.segments,
                                     .long_lengths = options.long_lengths,
                                     .past_2g = !options.no_long && options.long_lengths.empty(),
                                     .piece = options.piece,
                                     .seed = options.model.seed,
                                     .broken = options.broken};
  const Tensor tokens = stream_of(options, skeleton.config().vocab);
  for (const int64_t segment : options.segments)
    if (segment >= options.length && options.segments != Options().segments)
      cli::print(stderr, "verify: no segments of {}: the stream has {} tokens\n", segment,
                 options.length);
  eval::verify_model(opener(options.model), tokens, how,
                     [&](const eval::Verdict& verdict, bool done) { report(verdict, done); });
  report_absent_gpu(options, "model", report);
}

/// --op; a family is the recurrence's alone.
std::string op_of(const Options& options) {
  return !options.op.empty() ? options.op : options.family == "all" ? "all" : "scan";
}

io::json config_of(const Options& options, const RecurrentLM* skeleton) {
  io::json config = {{"devices", names_of(devices_of(options.model.device))},
                     {"broken", options.broken},
                     {"no_long", options.no_long},
                     {"seed", options.model.seed}};
  if (skeleton == nullptr) {
    config["subject"] = "kernels";
    config["op"] = op_of(options);
    config["family"] = options.family;
    return config;
  }
  const ModelConfig& model = skeleton->config();
  config["subject"] = "model";
  config["model"] = {{"sha256", model.hash}, {"family", model.family}, {"layout", model.layout}};
  config["dtype"] = options.dtype;
  config["length_tokens"] = options.length;
  config["segments_tokens"] = options.segments;
  config["long_lengths_tokens"] = options.long_lengths;
  config["piece_tokens"] = options.piece;
  config["text"] = options.text.empty() ? io::json() : io::json(options.text);
  return config;
}

void run(const Options& options, Context& context) {
  check(options.kernels != !options.model.model.empty(), Error::Kind::Usage,
        "give either a MODEL or --kernels");
  check(options.kernels || options.op.empty(), Error::Kind::Usage, "--op goes with --kernels");
  check(options.family == "all" || op_of(options) == "scan", Error::Kind::Usage,
        "--family applies to the recurrence alone: it goes with --op scan, not {}", options.op);
  io::OutputGuard guard = guard_inputs(options.model);
  guard.reads("--text", options.text);
  guard.writes("-o", options.output);
  std::unique_ptr<RecurrentLM> skeleton;
  if (!options.kernels)
    skeleton = open_skeleton(options.model.model, reading_of(options.model)).model;
  if (skeleton)
    say_warnings(skeleton->config());
  Report report;
  report.table = options.output == "-" ? stderr : stdout;
  if (!options.output.empty())
    report.journal =
        io::Journal::open_anew(options.output,
                               {.schema = eval::kVerifySchema,
                                .version = eval::kVerifyVersion,
                                .config = config_of(options, skeleton.get()),
                                .provenance = io::provenance(
                                    context.command_line, devices_of(options.model.device).back())},
                               options.overwrite);
  print_head(report.table);
  if (options.kernels) {
    eval::verify_kernels({.devices = devices_of(options.model.device),
                          .op = op_of(options),
                          .family = options.family,
                          .huge = !options.no_long,
                          .broken = options.broken},
                         [&](const eval::Verdict& verdict, bool done) { report(verdict, done); });
    report_absent_gpu(options, "kernels", report);
  } else {
    run_model(options, *skeleton, report);
  }
  if (report.journal)
    report.journal->finish(
        {{"agree", report.agree}, {"disagree", report.disagree}, {"not_run", report.not_run}});
  cli::print(report.table, "{} agree, {} disagree, {} not run\n", report.agree, report.disagree,
             report.not_run);
  check(report.disagree == 0, Error::Kind::Disagreement,
        "{} of {} comparisons disagree: results of this machine or build are not to be trusted",
        report.disagree, report.agree + report.disagree);
}

std::vector<std::string> op_names() {
  std::vector<std::string> names = {"all"};
  for (const ops::Op* op : ops::all_ops())
    names.emplace_back(op->name);
  return names;
}

/// What --break names: every form there is.
std::vector<std::string> form_names() {
  std::vector<std::string> names = {"none"};
  for (const ops::Op* op : ops::all_ops())
    for (const Impl form : op->forms)
      if (std::ranges::find(names, impl_name(form)) == names.end())
        names.emplace_back(impl_name(form));
  return names;
}

void add_options(CLI::App& app, Options& options) {
  add_checkpoint(app, "model,--model", options.model.model,
                 "Folder or weight file of the model, or a repository in Hugging Face's cache");
  add_gated_norm(app, options.model.gated_norm, "Options");
  app.add_flag(
      "--kernels", options.kernels,
      "Check every form of every operation against references in f64, the recurrence at the shapes "
      "of all families, with adversarial decays, lengths and cuts; needs no model");
  add_device(app, options.model.device,
             "auto: the CPU, and the first GPU if there is one; otherwise this device alone");
  std::vector<std::string> families = family_names();
  families.emplace(families.begin(), "all");
  add_choice(app, "--op", options.op, op_names(),
             "With --kernels: this operation alone (default: all; with --family, scan)");
  add_choice(app, "--family", options.family, families,
             "With --kernels: the recurrence at this family's shapes");
  const char* const stream = "Stream (of a model)";
  add_choice(app, "--dtype", options.dtype, {"both", "f32", "bf16"},
             "Types of weights and activations")
      ->group(stream);
  app.add_option("--text", options.text,
                 "Feed the tokens of this text (default: random ids from --seed)")
      ->type_name("FILE")
      ->group(stream);
  add_checkpoint(app, "--tokenizer", options.model.tokenizer,
                 "Tokenizer of --text (default: the one in the model's folder)")
      ->type_name("PATH|NAME|bytes")
      ->group(stream);
  add_seed(app, options.model.seed, "Seed of the random ids")->group(stream);
  add_size(
      app, "--length", options.length,
      "Tokens fed to every path; the reference takes about 0.3 s per token for a model of 1.3B")
      ->group(stream);
  add_sizes(app, "--segments", options.segments,
            "Segment lengths to compare (default: 1,37,512, those shorter than --length)")
      ->group(stream);
  add_sizes(
      app, "--long", options.long_lengths,
      "Lengths of longer streams, compared whole and in pieces of --piece, without the reference "
      "(default: on a GPU, one whose widest activation exceeds 2^31 elements; on the CPU, none)")
      ->group(stream);
  add_size(app, "--piece", options.piece, "Tokens per piece of a --long stream")->group(stream);
  app.add_flag(
      "--no-long", options.no_long,
      "Skip long streams, and with --kernels whatever has a million tokens or 2^31 elements");
  add_journal(app, "-o,--output,--json", options.output,
              "Verdicts, JSON Lines, rewritten by every run; - is standard output");
  app.add_flag("--overwrite", options.overwrite, "Replace even the verdicts of another run");
  add_choice(app, "--break", options.broken, form_names(),
             "For tests: makes every insertion of this implementation 1 % too large, which must "
             "end in exit code 1")
      ->group("");
}

}  // namespace

void add_verify(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "verify",
      "Check that all ways to compute the same numbers agree on this machine: a stream whole, in "
      "segments, one token at a time, by the reference, on the CPU and on a GPU. Exit code 1 if "
      "any disagree.",
      "  stuffed verify mamba2-130m\n"
      "  stuffed verify mamba2-1.3b --device cuda --text war.txt --length 2K -o verdicts.jsonl\n"
      "  stuffed verify --kernels --op norm\n"
      "\n"
      "An error is the RMS of the difference over the RMS of the reference: of the losses (with "
      "--kernels: of y, in the worst\n"
      "head), and of the final state, in the worst layer or head. Bounds: f32 1e-4 between paths "
      "of a model, bf16 2e-2 and\n"
      "5e-2 (its activations round differently when cut differently), bf16 against f32 5e-2 and "
      "2e-1; kernels 1e-5 in f32, 5e-3\n"
      "and 3e-3 in bf16.\n");
  auto options = std::make_shared<Options>();
  add_options(*app, *options);
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run(*options, context); },
                      .resumable = false});
}

}  // namespace stuffed::cli
