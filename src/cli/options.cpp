#include "src/cli/options.h"

#include <algorithm>
#include <charconv>

#include "stuffed/core/error.h"
#include "stuffed/io/hub_cache.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/ops/op.h"
#include "stuffed/recurrence/mitigations.h"
#include "stuffed/sweep/plan.h"

namespace stuffed::cli {

const char* const kExitCodes =
    "Exit codes: 0 ok; 1 a comparison or verification failed, or a rank of a distributed run is "
    "gone; "
    "2 usage error; 3 an input file is "
    "missing, damaged, of the wrong kind or unsupported; 4 not supported by this build or device; "
    "5 out of "
    "memory; 6 a non-finite number under --fail-nonfinite; 7 an output cannot be written; 70 a bug "
    "in stuffed; 75 stopped by a signal, resumable.";

namespace {

int shift_of(char unit) {
  switch (unit) {
    case 'k':
    case 'K':
      return 10;
    case 'm':
    case 'M':
      return 20;
    case 'g':
    case 'G':
      return 30;
    default:
      return 0;
  }
}

int64_t at_least(int64_t value, int64_t minimum, std::string_view flag) {
  check(value >= minimum, Error::Kind::Usage, "{}: found {}, expected at least {}", flag, value,
        minimum);
  return value;
}

/// FIRST..LAST:STEP or a single size.
void append_range(std::vector<int64_t>& out, std::string_view text, std::string_view what) {
  const size_t dots = text.find("..");
  if (dots == text.npos) {
    out.push_back(parse_size(text, what));
    return;
  }
  const size_t colon = text.find(':', dots);
  check(colon != text.npos, Error::Kind::Usage,
        "{}: the range '{}' has no step; write FIRST..LAST:STEP, such as 1K..128K:1K", what, text);
  const int64_t first = parse_size(text.substr(0, dots), what);
  const int64_t last = parse_size(text.substr(dots + 2, colon - dots - 2), what);
  const int64_t step = parse_size(text.substr(colon + 1), what);
  check(step > 0 && first <= last, Error::Kind::Usage,
        "{}: the range '{}' is empty or endless; FIRST may not exceed LAST, and STEP must be at "
        "least 1",
        what, text);
  constexpr int64_t kMost =
      1 << 20;  // more is a slip of the pen, and would fill the memory before anything runs
  check((last - first) / step < kMost, Error::Kind::Usage,
        "{}: the range '{}' has more than {} members", what, text, kMost);
  for (int64_t value = first; value <= last; value += step)
    out.push_back(value);
}

std::string flag_name(const std::string& flag) {
  return flag.substr(flag.find("--"));
}

}  // namespace

int64_t parse_size(std::string_view text, std::string_view what) {
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  const int shift = rest + 1 == end ? shift_of(*rest) : 0;
  const bool whole = rest == end || (rest + 1 == end && shift > 0);
  check(error == std::errc() && whole, Error::Kind::Usage,
        "{}: '{}' is not a size; expected a whole number, optionally followed by K, M or G (K = "
        "1024)",
        what, text);
  // What is above is a slip of the pen: no stream is that long, and no machine.
  constexpr int64_t kMost = int64_t{1} << 40;
  check(value <= kMost >> shift && value >= 0, Error::Kind::Usage,
        "{}: '{}' is out of range; expected 0 to 1024G", what, text);
  return value << shift;
}

std::vector<int64_t> parse_sizes(std::string_view text, std::string_view what) {
  std::vector<int64_t> sizes;
  while (true) {
    const size_t comma = text.find(',');
    append_range(sizes, text.substr(0, comma), what);
    if (comma == text.npos)
      return sizes;
    text.remove_prefix(comma + 1);
  }
}

namespace {

/// As somebody would write it: 8K, 32M.
std::string short_size(int64_t tokens) {
  constexpr int64_t kKilo = 1024, kMega = kKilo * kKilo;
  if (tokens > 0 && tokens % kMega == 0)
    return fmt::format("{}M", tokens / kMega);
  if (tokens > 0 && tokens % kKilo == 0)
    return fmt::format("{}K", tokens / kKilo);
  return fmt::format("{}", tokens);
}

}  // namespace

CLI::Option* add_size(CLI::App& app,
                      const std::string& flag,
                      int64_t& home,
                      const std::string& description,
                      int64_t minimum) {
  const auto set = [&home, minimum, name = flag_name(flag)](const std::string& text) {
    home = at_least(parse_size(text, name), minimum, name);
  };
  CLI::Option* option =
      app.add_option_function<std::string>(flag, set, description)->type_name("SIZE");
  if (home >= minimum)
    option->default_str(short_size(home));
  return option;
}

CLI::Option* add_count(CLI::App& app,
                       const std::string& flag,
                       int64_t& home,
                       const std::string& description,
                       int64_t minimum) {
  CLI::Option* option = add_size(app, flag, home, description, minimum)->type_name("N");
  if (home >= minimum)
    option->default_str(fmt::format("{}", home));
  return option;
}

CLI::Option* add_batch_size(CLI::App& app, int64_t& home, const std::string& description) {
  const auto set = [&home](const std::string& text) {
    home = text == "auto" ? 0 : at_least(parse_size(text, "--batch-size"), 1, "--batch-size");
  };
  return app.add_option_function<std::string>("--batch-size", set, description)
      ->type_name("N|auto")
      ->default_str(fmt::format("{}", home));
}

CLI::Option* add_part(CLI::App& app, int64_t& part, int64_t& parts, const std::string& what) {
  const auto set = [&part, &parts](const std::string& text) {
    const sweep::Shard shard = sweep::parse_shard(text, "--part");
    part = shard.index;
    parts = shard.count;
  };
  return app
      .add_option_function<std::string>(
          "--part", set,
          fmt::format("{} i, i+n, i+2n, ..., so that n processes can share one run; `stuffed "
                      "merge` joins their results",
                      what))
      ->type_name("i/n");
}

CLI::Option* add_seed(CLI::App& app, uint64_t& home, const std::string& description) {
  const auto set = [&home](const std::string& text) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), home);
    check(error == std::errc() && end == text.data() + text.size(), Error::Kind::Usage,
          "--seed: '{}' is not a whole number from 0 to 2^64 - 1", text);
  };
  return app.add_option_function<std::string>("--seed", set, description)
      ->default_str(fmt::format("{}", home))
      ->type_name("N");
}

CLI::Option* add_sizes(CLI::App& app,
                       const std::string& flag,
                       std::vector<int64_t>& home,
                       const std::string& description,
                       int64_t minimum) {
  const auto set = [&home, minimum, name = flag_name(flag)](const std::string& text) {
    home = parse_sizes(text, name);
    for (const int64_t size : home)
      at_least(size, minimum, name);
  };
  return app.add_option_function<std::string>(flag, set, description)
      ->join(',')
      ->type_name("SIZES");
}

CLI::Validator number_between(double low, double high) {
  return CLI::Validator(
      [low, high](const std::string& text) {
        const char* const end = text.data() + text.size();
        double x = 0;
        const auto [rest, error] = std::from_chars(text.data(), end, x);
        return error == std::errc() && rest == end && x >= low && x <= high  // false for NaN
                   ? std::string()
                   : fmt::format("found {}, expected a number from {} to {}", text, low, high);
      },
      "");
}

CLI::Option* add_device(CLI::App& app, std::string& home, const std::string& description) {
  const auto check = [](const std::string& text) {
    const bool indexed = text.starts_with("cuda:") && text.size() > 5 && text.size() < 9 &&
                         text.find_first_not_of("0123456789", 5) == text.npos;
    return text == "auto" || text == "cpu" || text == "cuda" || indexed
               ? std::string()
               : "'" + text + "' is not auto, cpu, cuda or cuda:i";
  };
  return app.add_option("--device", home, description)
      ->check(CLI::Validator(check, ""))
      ->type_name("auto|cpu|cuda[:i]")
      ->capture_default_str();
}

void add_save_every(CLI::App& app, double& home, const std::string& group) {
  app.add_option("--save-every", home,
                 "Seconds between saves of an unfinished measurement, which is the most that "
                 "SIGKILL can lose. Signals that can be caught always save; 0: save only on those")
      ->check(number_between(0, 1e9))
      ->type_name("SECONDS")
      ->capture_default_str()
      ->group(group);
}

CLI::Option* add_choice(CLI::App& app,
                        const std::string& flag,
                        std::string& home,
                        const std::vector<std::string>& choices,
                        const std::string& description) {
  return app.add_option(flag, home, description)
      ->check(CLI::IsMember(choices).description(""))
      ->type_name(fmt::format("{}", fmt::join(choices, "|")))
      ->capture_default_str();
}

CLI::Option* add_journal(CLI::App& app,
                         const std::string& flag,
                         std::string& home,
                         const std::string& description) {
  const auto set = [&home, name = flag_name(flag)](const std::string& text) {
    check(!text.empty(), Error::Kind::Usage, "{}: expected a file name, or - for standard output",
          name);
    home = io::output_name(text);
  };
  return app.add_option_function<std::string>(flag, set, description)->type_name("OUT.jsonl");
}

namespace {

/// Read by whoever runs the command: it is of no command's own.
void add_threads(CLI::App& app) {
  const auto check_count = [](const std::string& text) {
    const int64_t threads = at_least(parse_size(text, "--threads"), 1, "--threads");
    check(threads <= 4096, Error::Kind::Usage, "--threads: found {}, expected at most 4096",
          threads);
  };
  app.add_option_function<std::string>(
         "--threads", check_count,
         "CPU threads; recorded, but a run may be resumed with another number (default: "
         "OMP_NUM_THREADS, else the cores this process may use)")
      ->type_name("N");
}

}  // namespace

CLI::App* add_subcommand(CLI::App& root,
                         const std::string& name,
                         const std::string& description,
                         const std::string& examples) {
  CLI::App* app = root.add_subcommand(name, description);
  app->fallthrough();  // --config is the root's
  add_threads(*app);
  app->footer(
      "--config FILE.toml reads any of these options (written without the leading dashes) from a "
      "flat TOML file;\n"
      "the command line takes precedence.\n"
      "A SIZE is a number of tokens such as 8192, 8K, 1M (K = 1024). Option names may be written "
      "with _ for -.\n"
      "\n"
      "Examples:\n" +
      examples + "\n" + kExitCodes);
  return app;
}

namespace {

/// The paragraph on mitigations that the help of a command with --mitigation ends with.
std::string mitigations_paragraph() {
  std::string text = "\nMitigations, with their keys and defaults:\n";
  for (const MitigationHelp& help : mitigation_help())
    text += fmt::format("  {}:{}\n", help.name, help.keys);
  return text + "sliding_window must be the last one, and excludes clamp_norm.\n";
}

}  // namespace

CLI::Option* add_checkpoint(CLI::App& app,
                            const std::string& flags,
                            std::string& home,
                            const std::string& description) {
  const auto set = [&home, name = flag_name(flags)](const std::string& text) {
    home = text == "bytes" ? text : io::find_checkpoint(text, name).string();
  };
  return app.add_option_function<std::string>(flags, set, description)->type_name("PATH|NAME");
}

namespace {

/// The paragraph on operations that the help of a command with --impl ends with.
std::string forms_paragraph() {
  std::string text =
      "\n"
      "Operations and their forms for --impl, besides auto:\n";
  for (const ops::Op* op : ops::all_ops()) {
    std::vector<std::string_view> forms;
    for (const Impl form : op->forms)
      forms.push_back(impl_name(form));
    text += fmt::format("  {:<12} {} ({})\n", op->name, fmt::join(forms, ", "), op->what);
  }
  return text;
}

}  // namespace

void add_model_options(CLI::App& app, ModelOptions& options, bool model_required) {
  const char* const group = "Model";
  add_checkpoint(
      app, "--model", options.model,
      "Folder or weight file of the model, as published, or the name of a repository in Hugging "
      "Face's cache; family and layout are recognised")
      ->required(model_required)
      ->group(group);
  add_checkpoint(app, "--tokenizer", options.tokenizer,
                 "tokenizer.json, tokenizer.model, a World vocabulary, a folder or repository with "
                 "one of them, or 'bytes' (default: the one in the model's folder)")
      ->type_name("PATH|NAME|bytes")
      ->group(group);
  add_device(app, options.device, "auto: the first GPU if there is one, else the CPU")
      ->group(group);
  add_choice(app, "--dtype", options.dtype, {"f32", "bf16"}, "Data type of weights and activations")
      ->group(group);
  add_choice(app, "--state-dtype", options.state_dtype, {"f32", "bf16"},
             "Data type to which the state is rounded between segments")
      ->group(group);
  add_impl(app, options.impl)->group(group);
  add_size(app, "--segment", options.segment,
           "Tokens fed at a time; affects speed, memory and rounding, but nothing else")
      ->group(group);
  app.add_option("--mitigation", options.mitigations,
                 "Change the recurrence; repeatable, applied in the order given; `stuffed "
                 "mitigations` lists them")
      ->take_all()
      ->expected(1)
      ->type_name("NAME[:KEY=VALUE,...]")
      ->group(group);
  app.add_flag(
         "--force", options.force,
         "Run what is otherwise refused for its cost: clamp_norm with every=1 beyond 64K tokens")
      ->group(group);
  add_gated_norm(app, options.gated_norm, group);
  add_seed(app, options.seed, "Seed of all random numbers")->group(group);
  std::string footer = app.get_footer();
  const size_t examples = std::min(footer.find("\nExamples:\n"), footer.size());
  app.footer(footer.insert(examples, mitigations_paragraph()));
}

CLI::Option* add_impl(CLI::App& app, std::string& home) {
  const auto set = [&home](const std::string& text) { home = ops::parse_impls(text).name(); };
  std::string footer = app.get_footer();
  app.footer(
      footer.insert(std::min(footer.find("\nExamples:\n"), footer.size()), forms_paragraph()));
  return app
      .add_option_function<std::string>(
          "--impl", set,
          "Form (implementation) of the recurrence, or of any of the operations listed below; a "
          "form named here is used or refused, never replaced")
      ->type_name("FORM|OP=FORM,...")
      ->default_str(home);
}

void add_gated_norm(CLI::App& app, std::string& home, const std::string& group) {
  app.add_option("--gated-norm", home,
                 "Mamba-2 with several groups: take the gated norm per group (as mamba_ssm does) "
                 "or over the whole width (as transformers does) (default: what the model's folder "
                 "says, else group)")
      ->check(CLI::IsMember({"group", "whole"}).description(""))
      ->type_name("group|whole")
      ->group(group);
}

}  // namespace stuffed::cli
