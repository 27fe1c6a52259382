#include "src/train/describe_run.h"

#include "stuffed/core/error.h"

namespace stuffed::train {

namespace {

constexpr auto kUsage = Error::Kind::Usage;

void check_shapes(const TrainConfig& config, int64_t ranks) {
  const int64_t window = config.data.window;
  check(config.length > 0 && config.segments > 0 && window % config.span() == 0, kUsage,
        "--length: {}{} does not divide the window of {} tokens (--window)", config.length,
        config.segments > 1 ? fmt::format(" times {} segments", config.segments) : "", window);
  check(config.batch > 0 && config.batch * config.span() % window == 0, kUsage,
        "--batch: {} sequences of {} do not make whole windows of {} tokens", config.batch,
        config.span(), window);
  check(config.accumulate > 0 && config.batch % config.accumulate == 0, kUsage,
        "--accumulate: {} parts do not divide a batch of {}", config.accumulate, config.batch);
  check(config.batch % (ranks * config.accumulate) == 0, kUsage,
        "--batch: {} sequences, of all ranks together, are not divisible by {} ranks times "
        "--accumulate {}",
        config.batch, ranks, config.accumulate);
}

io::json shares(const DataConfig& data) {
  io::json mix;
  for (const auto& [source, share] : data.mix)
    mix[source_name(source)] = share;
  return mix;
}

std::string name_of(InitialState state) {
  switch (state) {
    case InitialState::Empty:
      return "empty";
    case InitialState::Passed:
      return "passed";
    case InitialState::Noise:
      return "noise";
    default:
      return "fitted-noise";
  }
}

/// What came later than the first version, where it is not as it was then.
void describe_later(const TrainConfig& config,
                    const TrainingData& data,
                    const RecurrentLM& model,
                    io::json& run) {
  const TrainConfig old;
  const auto name = [&](const char* key, const auto& value, const auto& before) {
    if (value != before)
      run[key] = value;
  };
  name("beta1", config.beta1, old.beta1);
  name("adam_eps", config.eps, old.eps);
  name("accumulate", config.accumulate, old.accumulate);
  name("segments", config.segments, old.segments);
  name("recompute", config.recompute, old.recompute);
  name("no_weight_decay", config.undecayed, old.undecayed);
  name("initial_state", name_of(config.initial_state), name_of(old.initial_state));
  if (config.initial_state == InitialState::Noise)
    run["noise_deviation"] = config.noise_deviation;
  if (config.schedule.shape == Shape::Cosine)
    run["schedule"] = "cosine";
  if (config.data.mix.contains(Source::Recall) || config.data.mix.contains(Source::Mqar))
    run["recall_pairs"] = config.data.recall_pairs;
  if (!config.data.shards.empty()) {
    run["shards_sha256"] = data.shard_hashes(/*held_out=*/false);
    run["held_out_shards_sha256"] = data.shard_hashes(/*held_out=*/true);
    run["documents"] = config.resets_documents ? "reset" : "carry";
  }
  if (data.tokenizer().kind() != "bytes")
    run["tokenizer"] = {{"kind", data.tokenizer().kind()}, {"sha256", data.tokenizer().hash()}};
  if (!config.init_from.empty())
    run["init_from"] = {{"sha256", model.config().hash}, {"layout", model.config().layout}};
}

}  // namespace

void check_train_config(const TrainConfig& config, int64_t ranks) {
  check_shapes(config, ranks);
  check(config.schedule.steps > 0 && config.log_every > 0 && config.validate_every > 0 &&
            config.checkpoint_every > 0,
        kUsage, "--steps and the --*-every options must be positive");
  const int64_t ramps = config.schedule.warmup + config.schedule.decay;
  check(ramps <= config.schedule.steps, kUsage,
        "--warmup {} and --decay {} take more than the {} steps", config.schedule.warmup,
        config.schedule.decay, config.schedule.steps);
  check(config.schedule.shape == Shape::Wsd || config.schedule.decay == 0, kUsage,
        "--decay {}: a cosine decays over all steps", config.schedule.decay);
  check((config.initial_state == InitialState::Noise) == (config.noise_deviation > 0), kUsage,
        "--noise-deviation {}: --initial-state noise takes a positive one, and nothing else does",
        config.noise_deviation);
}

io::json describe_run(const TrainConfig& config,
                      const TrainingData& data,
                      const RecurrentLM& model,
                      at::Device device) {
  io::json run = {{"family", config.family},
                  {"model", config.model},
                  {"mix", shares(config.data)},
                  {"text_sha256", data.text_hash()},
                  {"held_out_sha256", data.held_out_hash()},
                  {"repeat_min_bytes", config.data.repeat_min},
                  {"repeat_max_bytes", config.data.repeat_max},
                  {"window_tokens", config.data.window},
                  {"length_tokens", config.length},
                  {"batch", config.batch},
                  {"steps", config.schedule.steps},
                  {"learning_rate", config.schedule.peak},
                  {"last_learning_rate", config.schedule.last},
                  {"warmup_steps", config.schedule.warmup},
                  {"decay_steps", config.schedule.decay},
                  {"weight_decay", config.weight_decay},
                  {"beta2", config.beta2},
                  {"clip", config.clip},
                  {"seed", config.seed},
                  {"dtype", config.dtype},
                  {"device", at::DeviceTypeName(device.type(), /*lower_case=*/true)},
                  {"log_every_steps", config.log_every},
                  {"validate_every_steps", config.validate_every},
                  {"validation_rows", config.validation_rows},
                  {"validation_length_tokens", config.validation_length}};
  describe_later(config, data, model, run);
  return run;
}

}  // namespace stuffed::train
