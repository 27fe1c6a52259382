// `stuffed train`: flags to a TrainConfig, and one line of progress per report.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include <ATen/Context.h>
#include <fmt/ranges.h>

#include "src/cli/app.h"
#include "src/cli/print.h"
#include "src/cli/run/failure.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/io/provenance.h"
#include "stuffed/models/family.h"
#include "stuffed/train/launch.h"
#include "stuffed/train/ranks.h"
#include "stuffed/train/trainer.h"

namespace stuffed::cli {

namespace {

struct TrainOptions {
  train::TrainConfig config;
  std::string model_config;
  std::vector<std::string> text, held_out, mix, shards, held_out_shards;
  std::string device = "auto", output, gated_norm, init_from;
  std::string schedule = "wsd", documents = "reset", initial_state = "empty";
  CLI::Option* window = nullptr;
  bool overwrite = false, distributed = false;
  double rendezvous_timeout = 300;  // seconds
};

/// "text=0.5" and the like; shares that are left out are 0.
std::map<train::Source, double> parse_mix(const std::vector<std::string>& parts,
                                          const train::DataConfig& data) {
  std::map<train::Source, double> mix;
  for (const std::string& part : parts) {
    const size_t equals = part.find('=');
    char* end = nullptr;
    const double share = equals == part.npos ? 0 : std::strtod(part.c_str() + equals + 1, &end);
    check(end && *end == '\0' && end != part.c_str() + equals + 1, Error::Kind::Usage,
          "--mix: '{}' is not SOURCE=SHARE, such as text=0.5", part);
    const auto added = mix.emplace(train::parse_source(part.substr(0, equals), data), share);
    check(added.second, Error::Kind::Usage, "--mix: '{}' is given twice", part.substr(0, equals));
  }
  return mix;
}

/// "NAME=DIR", or a DIR that is called "shards".
std::map<std::string, std::filesystem::path> parse_shards(const char* flag,
                                                          const std::vector<std::string>& parts) {
  std::map<std::string, std::filesystem::path> sets;
  for (const std::string& part : parts) {
    const size_t equals = part.find('=');
    const std::string name = equals == part.npos ? "shards" : part.substr(0, equals);
    const bool is_new =
        sets.emplace(name, equals == part.npos ? part : part.substr(equals + 1)).second;
    check(is_new && !name.empty(), Error::Kind::Usage,
          "{} {}: the name '{}' is taken; give each set its own name, NAME=DIR", flag, part, name);
  }
  return sets;
}

train::InitialState parse_initial_state(const std::string& name) {
  using train::InitialState;
  return name == "passed"         ? InitialState::Passed
         : name == "noise"        ? InitialState::Noise
         : name == "fitted-noise" ? InitialState::FittedNoise
                                  : InitialState::Empty;
}

io::json parse_model_config(const std::string& text) {
  return text.starts_with('{') ? io::parse_json(text, "--model-config") : io::read_json(text);
}

/// Lines on stderr: step, loss, rate, tokens per second and time left.
class Report {
 public:
  explicit Report(int64_t tokens_per_step) : tokens_per_step_(tokens_per_step) {}

  void operator()(const train::Progress& progress) {
    using Seconds = std::chrono::duration<double>;
    const auto now = std::chrono::steady_clock::now();
    const double seconds = Seconds(now - since_).count();
    const auto steps = static_cast<double>(progress.step - step_);
    const auto left = static_cast<double>(progress.steps - progress.step);
    cli::print(
        stderr,
        "step {}/{}  loss {:.4f} nats  rate {:.2e}  gradient {:.2f}  {:.0f} tokens/s  {:.0f} "
        "s left\n",
        progress.step, progress.steps, progress.loss_nats, progress.learning_rate,
        progress.gradient_norm, steps * static_cast<double>(tokens_per_step_) / seconds,
        left * seconds / steps);
    since_ = now;
    step_ = progress.step;
  }

 private:
  int64_t tokens_per_step_;
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  int64_t step_ = 0;
};

/// Which tokens, and how they are cut.
void read_data_options(const TrainOptions& options, train::TrainConfig& config) {
  train::DataConfig& data = config.data;
  data.text.assign(options.text.begin(), options.text.end());
  data.held_out.assign(options.held_out.begin(), options.held_out.end());
  data.shards = parse_shards("--shards", options.shards);
  data.held_out_shards = parse_shards("--held-out-shards", options.held_out_shards);
  if (!options.mix.empty())
    data.mix = parse_mix(options.mix, data);
  else if (data.text.empty() && data.shards.size() == 1)
    data.mix = {{train::Source(train::Source::Shards, data.shards.begin()->first), 1.0}};
  const bool fits =
      data.window % config.span() == 0 && config.batch * config.span() % data.window == 0;
  if (options.window->count() == 0 && !fits)
    data.window = config.span();
}

/// What the model is made of.
void read_model_options(const TrainOptions& options, train::TrainConfig& config) {
  config.init_from = options.init_from;
  check(options.model_config.empty() != options.init_from.empty(), Error::Kind::Usage,
        "give exactly one of --model-config (a new model) and --init-from (a checkpoint)");
  if (!options.init_from.empty())
    return;
  config.model = parse_model_config(options.model_config);
  if (!options.model_config.starts_with('{'))
    config.model_file = options.model_config;
}

/// The GPU of this rank, unless --device names one. A batch system may show each rank its own alone.
at::Device device_of_rank(const std::string& name, const train::Launch& launch) {
  const at::Device device = parse_device(name);
  if (!device.is_cuda() || name.starts_with("cuda:") || at::getNumGPUs() == 1)
    return device;
  return parse_device(fmt::format("cuda:{}", launch.local_rank));
}

/// As one of several processes; one of them alone says what goes wrong.
void train_distributed(const TrainOptions& options,
                       const train::TrainConfig& config,
                       const Context& context) {
  const train::Launch launch =
      train::read_launch([](const char* name) { return std::getenv(name); });
  if (launch.rank != 0)
    take_signals_quietly();
  const at::Device device = device_of_rank(options.device, launch);
  io::json provenance = io::provenance(context.command_line, device);
  provenance["ranks"] = launch.size;
  train::Ranks ranks(launch, device, options.rendezvous_timeout);
  try {
    train::train(config, device, options.output, provenance, options.overwrite,
                 Report(config.batch * config.length), ranks);
  } catch (const std::exception& error) {
    const Failure failure = failure_of(error);
    ranks.fail(failure.exit_code, failure.message);
    throw;
  }
}

void run_train(const TrainOptions& options, const Context& context) {
  train::TrainConfig config = options.config;
  read_model_options(options, config);
  if (!options.gated_norm.empty() && !options.init_from.empty())
    config.gated_norm = options.gated_norm;
  else if (!options.gated_norm.empty() && config.model.is_object()) {
    io::json& own = config.model["stuffed_gated_norm"];
    check(own.is_null() || own == options.gated_norm, Error::Kind::Usage,
          "--gated-norm {}: --model-config says stuffed_gated_norm {}", options.gated_norm,
          own.dump());
    own = options.gated_norm;
  }
  read_data_options(options, config);
  config.resets_documents = options.documents == "reset";
  config.initial_state = parse_initial_state(options.initial_state);
  config.schedule.shape = options.schedule == "cosine" ? train::Shape::Cosine : train::Shape::Wsd;
  if (options.distributed)
    return train_distributed(options, config, context);
  const at::Device device = parse_device(options.device);
  train::train(config, device, options.output, io::provenance(context.command_line, device),
               options.overwrite, Report(config.batch * config.length));
}

void add_data_options(CLI::App& app, TrainOptions& options) {
  const char* const group = "Data";
  train::DataConfig& data = options.config.data;
  app.add_flag("--wait", data.wait,
               "Keep waiting when a pipe delivers nothing for 10 s (default: fail)")
      ->group(group);
  app.add_option("--text", options.text,
                 "Text files to train on; repeatable. - is standard input; pipes, gzip and zstd "
                 "are read too")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--held-out", options.held_out, "Files for validation, never trained on")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--shards", options.shards,
                 "Folders written by `tokenize --shards`; repeatable, each with its own name. "
                 "Their documents are drawn in random order, each once per epoch, and concatenated")
      ->type_name("[NAME=]DIR")
      ->group(group);
  app.add_option("--held-out-shards", options.held_out_shards,
                 "Shards for validation, never trained on; each set belongs to the training shards "
                 "of the same name")
      ->type_name("[NAME=]DIR")
      ->group(group);
  add_checkpoint(app, "--tokenizer", data.tokenizer,
                 "Tokenizer of texts and tasks: a file, a folder, a repository in Hugging Face's "
                 "cache, or 'bytes' (default: the shards', or bytes)")
      ->type_name("PATH|NAME|bytes")
      ->group(group);
  app.add_option("--mix", options.mix,
                 "Shares of the windows by source: text; shards by their names ('shards' if they "
                 "have none); repeat (a random string, repeated); passkey (prompts with answers); "
                 "recall (keys with values, then the keys again); mqar (likewise, as "
                 "'stuffed retrieval' asks it). Default: the only one given")
      ->type_name("SOURCE=SHARE")
      ->group(group);
  add_choice(app, "--documents", options.documents, {"reset", "carry"},
             "Where a document begins inside a window, reset the state or carry it on")
      ->group(group);
  add_size(app, "--repeat-min", data.repeat_min, "Shortest string of 'repeat'")->group(group);
  add_size(app, "--repeat-max", data.repeat_max, "Longest string of 'repeat'")->group(group);
  add_count(app, "--recall-pairs", data.recall_pairs,
            "Maximum number of key-value pairs in 'recall' and 'mqar'", 2)
      ->group(group);
  options.window = add_size(app, "--window", data.window,
                            "Tokens drawn at once and cut into sequences: runs that differ in "
                            "--length alone see the same tokens in the same steps. If not given, "
                            "and 512 does not fit --length, --segments and --batch: --length times "
                            "--segments");
  options.window->group(group);
}

void add_optimiser_options(CLI::App& app, TrainOptions& options) {
  train::TrainConfig& config = options.config;
  const char* const group = "Optimiser";
  const auto number = [&](const char* flag, double& home, const char* description, double low,
                          double high) {
    app.add_option(flag, home, description)
        ->type_name("X")
        ->capture_default_str()
        ->group(group)
        ->check(number_between(low, high));
  };
  number("--lr", config.schedule.peak, "Peak learning rate of AdamW, reached after --warmup steps",
         0, 1e3);
  number("--last-lr", config.schedule.last, "Learning rate of the last step", 0, 1e3);
  add_choice(app, "--schedule", options.schedule, {"wsd", "cosine"},
             "After the warm-up, wsd: constant, with --decay steps of decay at the end; cosine: "
             "half a cosine")
      ->group(group);
  add_count(app, "--warmup", config.schedule.warmup, "Steps of linear warm-up", 0)->group(group);
  add_count(app, "--decay", config.schedule.decay, "Steps of linear decay at the end (wsd)", 0)
      ->group(group);
  number("--weight-decay", config.weight_decay, "Weight decay, on matrices and the embedding only",
         0, 1e3);
  app.add_option("--no-weight-decay", config.undecayed,
                 "No weight decay on weights with PART in their names; repeatable")
      ->type_name("PART")
      ->group(group);
  number("--beta1", config.beta1, "AdamW's beta1", 0, 0.999999);
  number("--beta2", config.beta2, "AdamW's beta2", 0, 0.999999);
  number("--adam-eps", config.eps, "AdamW's eps", 0, 1);
  number("--clip", config.clip, "Clip the norm of the gradient to X; 0: do not clip", 0, 1e30);
}

void add_state_options(CLI::App& app, TrainOptions& options) {
  const char* const group = "States and memory";
  train::TrainConfig& config = options.config;
  add_count(app, "--segments", config.segments,
            "Truncated back-propagation through time: a row continues over N steps, its state "
            "carried from one to the next without a gradient")
      ->group(group);
  add_choice(app, "--initial-state", options.initial_state,
             {"empty", "passed", "noise", "fitted-noise"},
             "State that a row starts from. empty: zeros; passed: the last state of the row before "
             "it; noise: normal noise; fitted-noise: normal noise with the mean and deviation, per "
             "head, of the last state of the row before it")
      ->group(group);
  app.add_option("--noise-deviation", config.noise_deviation,
                 "Standard deviation for --initial-state noise")
      ->type_name("X")
      ->group(group);
  add_count(app, "--accumulate", config.accumulate,
            "Feed a batch in N parts and add up their gradients")
      ->group(group);
  app.add_flag("--recompute", config.recompute,
               "Keep only the inputs of each block, and recompute the rest in the backward pass "
               "(activation checkpointing)")
      ->group(group);
}

void add_distributed_options(CLI::App& app, TrainOptions& options) {
  const char* const group = "Several processes";
  app.add_flag(
         "--distributed", options.distributed,
         "Be one of several processes that train one model, each on its share of --batch: as "
         "torchrun or Slurm's srun started them, whose environment variables are read with this "
         "flag alone. On GPUs gradients are averaged by NCCL, on CPUs over TCP")
      ->group(group);
  app.add_option("--rendezvous-timeout", options.rendezvous_timeout,
                 "Seconds that all processes have to come together")
      ->check(number_between(0.1, 1e6))
      ->type_name("SECONDS")
      ->capture_default_str()
      ->group(group);
}

void add_record_options(CLI::App& app, train::TrainConfig& config) {
  const char* const group = "Records";
  add_count(app, "--log-every", config.log_every, "Steps between reports of the loss")
      ->group(group);
  add_count(app, "--validate-every", config.validate_every, "Steps between validations")
      ->group(group);
  add_count(app, "--checkpoint-every", config.checkpoint_every,
            "Steps between checkpoints, from which the same command resumes")
      ->group(group);
  add_save_every(app, config.save_every, group);
  add_count(app, "--validation-rows", config.validation_rows, "Validation sequences per source")
      ->group(group);
  add_size(app, "--validation-length", config.validation_length,
           "Tokens per validation sequence (default: --length). The loss beyond --length is "
           "reported separately")
      ->group(group);
}

/// Which families can be made, and of which keys.
std::string families_paragraph() {
  std::string text =
      "Families, with the keys of --model-config and, in brackets, their defaults:\n";
  for (const std::string& name : family_names(/*new_only=*/true)) {
    std::string line = fmt::format("  {}:", name);
    for (const NewKey& key : find_family(name).new_keys) {
      const std::string shown = key.otherwise.empty()
                                    ? fmt::format(" {},", key.name)
                                    : fmt::format(" {} [{}],", key.name, key.otherwise);
      if (line.size() + shown.size() > 100) {
        text += line + "\n";
        line = "   ";
      }
      line += shown;
    }
    line.pop_back();
    text += line + "\n";
  }
  return text;
}

}  // namespace

void add_train(CLI::App& root, Commands& commands) {
  auto options = std::make_shared<TrainOptions>();
  train::TrainConfig& config = options->config;
  CLI::App* app = add_subcommand(
      root, "train",
      "Train a model of any family, from scratch or from a checkpoint; the other commands and "
      "transformers or flash-linear-attention read the result",
      "  stuffed train --config configs/smoke/train_bytes.toml\n"
      "  stuffed train --model-config '{\"hidden_size\":96,\"num_hidden_layers\":4,\"head_dim\":32,"
      "\"state_size\":128}'\n"
      "    --text book.txt --mix text=0.5 repeat=0.5 --length 128 --steps 2000 -o out/short\n"
      "  stuffed train --init-from out/short --shards out/shards --length 1K --segments 12 "
      "--steps 500 -o out/long\n"
      "  torchrun --no-python --nproc-per-node 2 stuffed train --distributed --config "
      "configs/smoke/train_bytes.toml\n\n" +
          families_paragraph());
  app->add_option("--family", config.family, "Model family")
      ->check(CLI::IsMember(family_names(/*new_only=*/true)).description(""))
      ->type_name(fmt::format("{}", fmt::join(family_names(/*new_only=*/true), "|")))
      ->capture_default_str();
  add_checkpoint(*app, "--init-from", options->init_from,
                 "Start from the weights of this checkpoint, of any supported family and layout: a "
                 "folder, a file or a repository in Hugging Face's cache");
  app->get_option("--family")->excludes("--init-from");  // a checkpoint has its own
  app->add_option("--model-config", options->model_config,
                  "config.json of the new model: a file, or the JSON itself, with the keys below; "
                  "a key that is unknown or cannot be honoured is refused")
      ->type_name("FILE|JSON");
  app->add_option(
         "--gated-norm", options->gated_norm,
         "With n_groups > 1: take the gated norm over the whole width, as transformers does "
         "(default), or per group; a model with the latter is saved in the original layout")
      ->check(CLI::IsMember({"group", "whole"}).description(""))
      ->type_name("group|whole");
  app->add_option("-o,--output", options->output,
                  "Folder for the model, its journal train.jsonl and its checkpoint; the same "
                  "command resumes")
      ->type_name("DIR")
      ->required();
  app->add_flag("--overwrite", options->overwrite, "Start over if the folder holds a run");
  add_size(*app, "--length", config.length,
           "Tokens per training sequence, through which gradients flow");
  add_count(*app, "--batch", config.batch, "Sequences per step, over all processes");
  add_count(*app, "--steps", config.schedule.steps, "Optimiser steps")->required();
  add_device(*app, options->device, "auto: the first GPU if there is one, else the CPU");
  add_choice(*app, "--dtype", config.dtype, {"f32", "bf16"},
             "Type of activations; weights, states and moments are f32");
  add_seed(*app, config.seed, "Seed of the initial weights and of every random draw");
  add_data_options(*app, *options);
  add_state_options(*app, *options);
  add_distributed_options(*app, *options);
  add_optimiser_options(*app, *options);
  add_record_options(*app, config);
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run_train(*options, context); },
                      .needs_gradients = true,
                      .resumable = true});
}

}  // namespace stuffed::cli
