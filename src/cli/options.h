// Options that several commands share, and the notation for sizes and lists of sizes.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

namespace stuffed::cli {

inline constexpr size_t kHelpColumn = 36;

/// For the footer of every --help.
extern const char* const kExitCodes;

/// Which model runs, on what, and how. Every command that runs one takes exactly these.
struct ModelOptions {
  std::string model;                // folder or weight file
  std::string tokenizer;            // file, folder or "bytes"; empty: found in the model's folder
  std::string device = "auto";      // auto, cpu, cuda, cuda:i
  std::string dtype = "f32";        // of weights and activations: f32, bf16
  std::string state_dtype = "f32";  // of the state kept between segments: f32, bf16
  std::string impl = "auto";        // of operations, as Impls::name() writes them
  int64_t segment = 8192;           // tokens fed at a time
  std::vector<std::string> mitigations;  // in the order given
  bool force = false;                    // run what is refused as too slow
  std::string gated_norm;                // group, whole; empty: as the folder says
  uint64_t seed = 0;
};

/// An option that names a model or a tokenizer: a path, or OWNER/NAME[@REVISION] of a repository in
/// Hugging Face's cache, which becomes the path of its snapshot (io::find_checkpoint).
CLI::Option* add_checkpoint(CLI::App& app,
                            const std::string& flags,
                            std::string& home,
                            const std::string& description);

/// `model_required`: false for a command that can do part of its work without one.
void add_model_options(CLI::App& app, ModelOptions& options, bool model_required = true);

/// --impl.
CLI::Option* add_impl(CLI::App& app, std::string& home);

/// --gated-norm.
void add_gated_norm(CLI::App& app, std::string& home, const std::string& group);

/// "8192", "8K", "128k", "1M", "2G", with K = 1024, at most 1024G. Throws Usage, naming `what`.
int64_t parse_size(std::string_view text, std::string_view what);

/// Sizes and ranges FIRST..LAST:STEP (LAST included), joined by commas: "1K,2K,4K..16K:4K". Throws
/// Usage.
std::vector<int64_t> parse_sizes(std::string_view text, std::string_view what);

/// An option that takes one size of at least `minimum`; the value `home` has now is shown as the
/// default, unless it is below the minimum (0 or -1 then stand for "not given").
CLI::Option* add_size(CLI::App& app,
                      const std::string& flag,
                      int64_t& home,
                      const std::string& description,
                      int64_t minimum = 1);

/// The same of a number of things that are not tokens: shown as N.
CLI::Option* add_count(CLI::App& app,
                       const std::string& flag,
                       int64_t& home,
                       const std::string& description,
                       int64_t minimum = 1);

/// --batch-size N or auto, which is 0 in `home`. `description` says what it is of.
CLI::Option* add_batch_size(CLI::App& app, int64_t& home, const std::string& description);

/// --part i/n of the `what` of a run, which `merge` joins; i and n go to `part` and `parts`.
CLI::Option* add_part(CLI::App& app, int64_t& part, int64_t& parts, const std::string& what);

/// --seed N: a whole number from 0 to 2^64 - 1.
CLI::Option* add_seed(CLI::App& app, uint64_t& home, const std::string& description);

/// An option that takes sizes and ranges; in a config file also an array of them.
CLI::Option* add_sizes(CLI::App& app,
                       const std::string& flag,
                       std::vector<int64_t>& home,
                       const std::string& description,
                       int64_t minimum = 1);

/// A check that a text is a number in [low, high]; NaN is in no range.
CLI::Validator number_between(double low, double high);

/// --device auto|cpu|cuda[:i].
CLI::Option* add_device(CLI::App& app, std::string& home, const std::string& description);

/// --save-every SECONDS: how much a kill without warning costs.
void add_save_every(CLI::App& app, double& home, const std::string& group);

/// An option that takes one of `choices`.
CLI::Option* add_choice(CLI::App& app,
                        const std::string& flag,
                        std::string& home,
                        const std::vector<std::string>& choices,
                        const std::string& description);

/// -o of results: /dev/stdout becomes "-". The caller adds what else the option needs.
CLI::Option* add_journal(CLI::App& app,
                         const std::string& flag,
                         std::string& home,
                         const std::string& description);

/// A subcommand with the look they all share: groups, --config, examples and exit codes in its
/// help.
CLI::App* add_subcommand(CLI::App& root,
                         const std::string& name,
                         const std::string& description,
                         const std::string& examples);

}  // namespace stuffed::cli
