// `stuffed train`: flags to a TrainConfig, and one line of progress per report.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "src/cli/app.h"
#include "src/cli/print.h"
#include "stuffed/core/error.h"
#include "stuffed/io/provenance.h"
#include "stuffed/train/trainer.h"

namespace stuffed::cli {

namespace {

struct TrainOptions {
  train::TrainConfig config;
  std::string model_config;
  std::vector<std::string> text, held_out, mix;
  std::string device = "auto", output, gated_norm;
  bool overwrite = false;
};

/// "text=0.5" and the like; shares that are left out are 0.
std::map<train::Source, double> parse_mix(const std::vector<std::string>& parts) {
  std::map<train::Source, double> mix;
  for (const std::string& part : parts) {
    const size_t equals = part.find('=');
    char* end = nullptr;
    const double share = equals == part.npos ? 0 : std::strtod(part.c_str() + equals + 1, &end);
    check(end && *end == '\0' && end != part.c_str() + equals + 1, Error::Kind::Usage,
          "--mix: '{}' is not SOURCE=SHARE, such as text=0.5", part);
    mix[train::parse_source(part.substr(0, equals))] = share;
  }
  return mix;
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

void run_train(const TrainOptions& options, const Context& context) {
  train::TrainConfig config = options.config;
  config.model = parse_model_config(options.model_config);
  if (!options.model_config.starts_with('{'))
    config.model_file = options.model_config;
  if (!options.gated_norm.empty() && config.model.is_object()) {
    io::json& own = config.model["stuffed_gated_norm"];
    check(own.is_null() || own == options.gated_norm, Error::Kind::Usage,
          "--gated-norm {}: --model-config says stuffed_gated_norm {}", options.gated_norm,
          own.dump());
    own = options.gated_norm;
  }
  config.data.text.assign(options.text.begin(), options.text.end());
  config.data.held_out.assign(options.held_out.begin(), options.held_out.end());
  if (!options.mix.empty())
    config.data.mix = parse_mix(options.mix);
  const at::Device device = parse_device(options.device);
  train::train(config, device, options.output, io::provenance(context.command_line, device),
               options.overwrite, Report(config.batch * config.length));
}

void add_data_options(CLI::App& app, TrainOptions& options) {
  const char* const group = "Data";
  train::DataConfig& data = options.config.data;
  app.add_flag("--wait", data.wait,
               "Keep waiting for a pipe that gives nothing for 10 s (default: an error)")
      ->group(group);
  app.add_option("--text", options.text,
                 "Files whose bytes are trained on; repeatable. - is standard input; pipes, gzip "
                 "and zstd are read too")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--held-out", options.held_out, "Files for validation, never trained on")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--mix", options.mix,
                 "Shares of the windows by source: text; repeat (a random printable string, "
                 "repeated); passkey (prompts with answers). Default: text=1")
      ->type_name("SOURCE=SHARE")
      ->group(group);
  add_size(app, "--repeat-min", data.repeat_min, "Shortest string of 'repeat'")->group(group);
  add_size(app, "--repeat-max", data.repeat_max, "Longest string of 'repeat'")->group(group);
  add_size(app, "--window", data.window,
           "Bytes drawn at once and cut into sequences: runs that differ in --length alone see the "
           "same bytes in the same steps")
      ->group(group);
}

void add_optimiser_options(CLI::App& app, train::TrainConfig& config) {
  const char* const group = "Optimiser";
  const auto number = [&](const char* flag, double& home, const char* description, double low,
                          double high) {
    app.add_option(flag, home, description)
        ->type_name("X")
        ->capture_default_str()
        ->group(group)
        ->check([low, high](const std::string& text) {
          const double x = std::strtod(text.c_str(), nullptr);
          return x >= low && x <= high  // false for NaN
                     ? std::string()
                     : fmt::format("found {}, expected a number from {} to {}", text, low, high);
        });
  };
  number("--lr", config.schedule.peak, "Learning rate between warm-up and decay (AdamW)", 0, 1e3);
  number("--last-lr", config.schedule.last, "Learning rate of the last step", 0, 1e3);
  add_count(app, "--warmup", config.schedule.warmup, "Steps of linear warm-up", 0)->group(group);
  add_count(app, "--decay", config.schedule.decay, "Steps of linear decay at the end", 0)
      ->group(group);
  number("--weight-decay", config.weight_decay, "Weight decay, on matrices and the embedding only",
         0, 1e3);
  number("--beta2", config.beta2, "AdamW's beta2 (beta1 is 0.9)", 0, 0.999999);
  number("--clip", config.clip, "Clip the gradient's norm to this; 0: do not clip", 0, 1e30);
}

void add_record_options(CLI::App& app, train::TrainConfig& config) {
  const char* const group = "Records";
  add_count(app, "--log-every", config.log_every, "Steps between reports of the loss")
      ->group(group);
  add_count(app, "--validate-every", config.validate_every, "Steps between validations")
      ->group(group);
  add_count(app, "--checkpoint-every", config.checkpoint_every,
            "Steps between checkpoints, which the same command resumes from")
      ->group(group);
  add_save_every(app, config.save_every, group);
  add_count(app, "--validation-rows", config.validation_rows, "Validation sequences of each source")
      ->group(group);
  add_size(app, "--validation-length", config.validation_length,
           "Tokens of a validation sequence; default: --length. Beyond --length the loss is "
           "reported apart")
      ->group(group);
}

}  // namespace

void add_train(CLI::App& root, Commands& commands) {
  auto options = std::make_shared<TrainOptions>();
  train::TrainConfig& config = options->config;
  CLI::App* app = add_subcommand(
      root, "train", "Train a small byte-level model that ppl-by-length and transformers can read",
      "  stuffed train --config configs/smoke/train_bytes.toml\n"
      "  stuffed train --model-config '{\"hidden_size\":96,\"num_hidden_layers\":4,\"head_dim\":32,"
      "\"state_size\":128}'\n"
      "    --text book.txt --mix text=0.5 repeat=0.5 --length 128 --steps 2000 -o out/short\n");
  app->add_option("--family", config.family, "Model family")->capture_default_str();
  app->add_option(
         "--model-config", options->model_config,
         "config.json of the new model: a file, or the JSON itself, in transformers' keys; "
         "one that is unknown or cannot be honoured is refused")
      ->type_name("FILE|JSON")
      ->required();
  app->add_option("--gated-norm", options->gated_norm,
                  "With n_groups > 1: the gated norm is over the whole width, as transformers "
                  "reads it (default), or over each group, saved in the original layout")
      ->check(CLI::IsMember({"group", "whole"}).description(""))
      ->type_name("group|whole");
  app->add_option("-o,--output", options->output,
                  "Folder for the model, its journal train.jsonl and its checkpoint; the same "
                  "command resumes")
      ->type_name("DIR")
      ->required();
  app->add_flag("--overwrite", options->overwrite, "Start over if the folder holds a run");
  add_size(*app, "--length", config.length, "Tokens per training sequence");
  add_count(*app, "--batch", config.batch, "Sequences per step");
  add_count(*app, "--steps", config.schedule.steps, "Optimiser steps")->required();
  app->add_option("--device", options->device, "auto: the first GPU if there is one, else the CPU")
      ->type_name("auto|cpu|cuda[:i]")
      ->capture_default_str();
  add_choice(*app, "--dtype", config.dtype, {"f32", "bf16"},
             "Type of activations; weights, states and moments are f32");
  add_seed(*app, config.seed, "Initial weights and every draw are functions of it");
  add_data_options(*app, *options);
  add_optimiser_options(*app, config);
  add_record_options(*app, config);
  commands.push_back({.app = app,
                      .run = [options](Context& context) { run_train(*options, context); },
                      .needs_gradients = true,
                      .resumable = true});
}

}  // namespace stuffed::cli
