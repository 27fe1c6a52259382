#include "stuffed/train/trainer.h"

#include <array>
#include <chrono>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "src/train/adamw.h"
#include "src/train/check_records.h"
#include "src/train/checkpoint.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/models/registry.h"
#include "stuffed/ops/linear_cross_entropy.h"

namespace stuffed::train {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kVocabulary = 256;  // bytes
constexpr int64_t kValidationStep =
    1024;  // tokens fed at a time; bounds memory, changes rounding only

constexpr const char* kJournalFile = "train.jsonl";
constexpr const char* kCheckpointFile = "checkpoint.safetensors";
constexpr const char* kTokenizerFile = "stuffed_tokenizer.json";
/// What a run writes besides its journal.
constexpr std::array<const char*, 4> kModelFiles = {kCheckpointFile, "model.safetensors",
                                                    "config.json", kTokenizerFile};

/// A folder with a model but with neither journal nor checkpoint is not ours to train into.
/// Errors  Usage for a text in the folder; Input
void check_folder(const TrainConfig& config, const fs::path& folder) {
  io::OutputGuard guard;
  for (const fs::path& text : config.data.text)
    guard.reads("--text", text);
  for (const fs::path& text : config.data.held_out)
    guard.reads("--held-out", text);
  guard.reads("--model-config", config.model_file);
  guard.writes("-o", folder / kJournalFile);
  for (const char* name : kModelFiles)
    guard.writes("-o", folder / name);
  std::error_code error;
  const bool has_journal =
      fs::exists(folder / kJournalFile, error) && !fs::is_empty(folder / kJournalFile, error);
  if (has_journal || is_checkpoint(folder / kCheckpointFile))
    return;
  for (const char* name : kModelFiles)
    check(!fs::exists(folder / name, error), Error::Kind::Input,
          "{}: is there, but its journal {} is not; name another folder", (folder / name).string(),
          kJournalFile);
}

void check_config(const TrainConfig& config) {
  const auto usage = Error::Kind::Usage;
  check(config.length > 0 && config.data.window % config.length == 0, usage,
        "--length: {} does not divide the window of {} bytes (--window)", config.length,
        config.data.window);
  check(config.batch > 0 && config.batch * config.length % config.data.window == 0, usage,
        "--batch: {} sequences of {} do not make whole windows of {} bytes", config.batch,
        config.length, config.data.window);
  check(config.schedule.steps > 0 && config.log_every > 0 && config.validate_every > 0 &&
            config.checkpoint_every > 0,
        usage, "--steps and the --*-every options must be positive");
  check(config.schedule.warmup + config.schedule.decay <= config.schedule.steps, usage,
        "--warmup {} and --decay {} take more than the {} steps", config.schedule.warmup,
        config.schedule.decay, config.schedule.steps);
}

/// Everything that decides the run's numbers.
io::json describe(const TrainConfig& config, const ByteData& data, at::Device device) {
  io::json mix;
  for (const auto& [source, share] : config.data.mix)
    mix[std::string(source_name(source))] = share;
  return {{"family", config.family},
          {"model", config.model},
          {"mix", mix},
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
}

class Run {
 public:
  Run(const TrainConfig& config,
      at::Device device,
      const fs::path& folder,
      const io::json& provenance,
      bool overwrite)
      : config_(config),
        device_(device),
        folder_(folder),
        data_(config.data),
        described_(describe(config, data_, device)),
        model_(new_model(config.family,
                         config.model,
                         config.seed,
                         {.dtype = config.dtype == "bf16" ? at::kBFloat16 : at::kFloat,
                          .device = device,
                          .inference = false})),
        rule_(build_recurrence({.mitigations = {}, .impl = Impl::Chunked})),
        loss_sum_(at::zeros({}, at::TensorOptions().device(device).dtype(at::kDouble))),
        journal_(io::Journal::open(
            folder / kJournalFile,
            {.schema = "stuffed.train",
             .version = 1,
             .config = described_,
             .provenance = provenance,
             .check_record = [this](const io::json& record) { check_record(record, config_); }},
            overwrite)) {
    check(model_->config().vocab == kVocabulary, Error::Kind::Usage,
          "the model's vocabulary is {}; training is on bytes: 256", model_->config().vocab);
    ParameterList parameters;
    model_->visit(parameters);
    optimiser_ =
        std::make_unique<AdamW>(parameters, AdamWOptions{.weight_decay = config.weight_decay,
                                                         .beta1 = 0.9,
                                                         .beta2 = config.beta2,
                                                         .eps = 1e-8,
                                                         .clip = config.clip});
    if (overwrite)
      for (const char* name : kModelFiles)
        fs::remove(folder / name);
    step_ = load_checkpoint(folder_ / kCheckpointFile, remembered(), described_);
    check(step_ <= config_.schedule.steps, Error::Kind::Input,
          "{}: says it is of step {}, but the run has {} steps",
          (folder_ / kCheckpointFile).string(), step_, config_.schedule.steps);
    check_complete();
  }

  void run(const std::function<void(const Progress&)>& on_progress) {
    if (journal_.finished())
      return;
    try {
      validate_if_due();  // in case that the run was stopped in it
      while (step_ < config_.schedule.steps)
        advance(on_progress);
    } catch (const Error& error) {
      if (error.kind() == Error::Kind::Interrupted)
        stop();
      throw;
    }
    save();
    journal_.finish();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void advance(const std::function<void(const Progress&)>& on_progress) {
    const double rate = learning_rate(config_.schedule, step_);
    const Tensor norm = take_step(rate);
    ++step_;
    if (is_due(config_.log_every))
      report(rate, norm, on_progress);
    validate_if_due();
    const std::chrono::duration<double> unsaved = Clock::now() - saved_at_;
    if (is_due(config_.checkpoint_every) ||
        (config_.save_every > 0 && unsaved.count() >= config_.save_every))
      save_progress();
    if (interrupted())
      stop();
  }

  bool is_due(int64_t every) const { return step_ % every == 0 || step_ == config_.schedule.steps; }

  void save_progress() {
    save_checkpoint(folder_ / kCheckpointFile, remembered(), step_, described_);
    saved_at_ = Clock::now();
  }

  /// Between two steps, or where one was left that changed nothing yet.
  [[noreturn]] void stop() {
    save_progress();
    fail(Error::Kind::Interrupted,
         "stopped by {} after step {} of {}, which is saved in {}: run the same command again to "
         "go on",
         signal_name(), step_, config_.schedule.steps, (folder_ / kCheckpointFile).string());
  }

  /// What the journal says was done must be there, and the other way round.
  void check_complete() const {
    for (int64_t step = config_.log_every; step <= step_; step += config_.log_every)
      check(journal_.done(step_key(step)), Error::Kind::Input,
            "{}: goes up to step {}, but the journal {} lacks step {}; put the right journal back, "
            "or start anew with --overwrite",
            (folder_ / kCheckpointFile).string(), step_, kJournalFile, step);
    if (!journal_.finished())
      return;
    for (const char* name : kModelFiles)  // whoever has the model may do without the checkpoint
      check(name == kCheckpointFile || fs::exists(folder_ / name), Error::Kind::Input,
            "{}: is missing, though {} is finished; --overwrite trains anew",
            (folder_ / name).string(), kJournalFile);
  }

  NamedTensors remembered() const {
    NamedTensors tensors = optimiser_->tensors();
    tensors.emplace_back("loss_sum", loss_sum_);
    return tensors;
  }

  /// Mean loss of one batch, backward, update. Returns the gradient's norm.
  Tensor take_step(double rate) {
    const int64_t windows = config_.batch * config_.length / config_.data.window;
    const Tensor tokens = data_.sequences(step_, windows, config_.length).to(device_);
    State state = model_->initial_state(config_.batch);
    const Output out = model_->forward(tokens.slice(1, 0, -1), state, *rule_);
    const LmHead& head = model_->head();
    const Tensor loss =
        ops::linear_cross_entropy(out.hidden, head.linear, head.vocab, tokens.slice(1, 1)).mean();
    loss.backward();
    loss_sum_.add_(loss.detach());
    return optimiser_->step(rate);
  }

  void report(double rate,
              const Tensor& norm,
              const std::function<void(const Progress&)>& on_progress) {
    const int64_t since = (step_ - 1) % config_.log_every + 1;
    const Progress progress = {.step = step_,
                               .steps = config_.schedule.steps,
                               .loss_nats = loss_sum_.item<double>() / static_cast<double>(since),
                               .learning_rate = rate,
                               .gradient_norm = norm.item<double>()};
    loss_sum_.zero_();
    append(step_key(step_),
           {{"step", step_},
            {"tokens", step_ * config_.batch * config_.length},
            {"loss_nats", progress.loss_nats},
            {"learning_rate", rate},
            {"gradient_norm", progress.gradient_norm}},
           std::isfinite(progress.loss_nats) && std::isfinite(progress.gradient_norm));
    on_progress(progress);
  }

  /// Mean loss on each source of the mixture, within the training length and, if validation
  /// sequences are longer, beyond it.
  void validate_if_due() {
    if (step_ == 0 || !is_due(config_.validate_every))
      return;
    const at::NoGradGuard no_grad;
    for (const auto& [source, share] : config_.data.mix) {
      const std::string key = validation_key(step_, source_name(source));
      if (share == 0 || (source == Source::Text && config_.data.held_out.empty()) ||
          journal_.done(key))
        continue;
      const Tensor nll = validation_nll(source);
      io::json fields = {{"step", step_}, {"source", source_name(source)}};
      const double within = nll.slice(1, 0, config_.length).mean().item<double>();
      fields["within_length_nats"] = within;
      bool finite = std::isfinite(within);
      if (nll.size(1) > config_.length) {
        const double beyond = nll.slice(1, config_.length).mean().item<double>();
        fields["beyond_length_nats"] = beyond;
        finite = finite && std::isfinite(beyond);
      }
      append(key, fields, finite);
    }
  }

  /// [rows, validation_length] f64 on the CPU.
  Tensor validation_nll(Source source) const {
    const int64_t length = std::max(config_.validation_length, config_.length);
    const Tensor tokens = data_.validation(source, config_.validation_rows, length).to(device_);
    State state = model_->initial_state(config_.validation_rows);
    std::vector<Tensor> parts;
    for (int64_t begin = 0; begin < length; begin += kValidationStep) {
      const int64_t end = std::min(length, begin + kValidationStep);
      const Output out = model_->forward(tokens.slice(1, begin, end), state, *rule_);
      parts.push_back(ops::linear_cross_entropy(out.hidden, model_->head().linear,
                                                model_->head().vocab,
                                                tokens.slice(1, begin + 1, end + 1)));
    }
    return at::cat(parts, 1).to(at::kCPU, at::kDouble);
  }

  void append(const std::string& key, io::json fields, bool finite) {
    if (journal_.done(key))  // a run that goes on from a checkpoint repeats the steps after it
      return;
    if (!finite)
      fields["finite"] = false;
    journal_.append(key, fields);
  }

  void save() {
    save_model(*model_, folder_);
    io::write_text(folder_ / kTokenizerFile, io::json{{"tokenizer", "bytes"}}.dump() + "\n");
  }

  TrainConfig config_;
  at::Device device_;
  fs::path folder_;
  ByteData data_;
  io::json described_;
  std::unique_ptr<RecurrentLM> model_;
  std::shared_ptr<const Recurrence> rule_;
  std::unique_ptr<AdamW> optimiser_;
  Tensor loss_sum_;  // f64, on the device: of the steps since the last report
  io::Journal journal_;
  int64_t step_ = 0;  // steps taken
  Clock::time_point saved_at_ = Clock::now();
};

}  // namespace

void train(const TrainConfig& config,
           at::Device device,
           const fs::path& folder,
           const io::json& provenance,
           bool overwrite,
           const std::function<void(const Progress&)>& on_progress) {
  check_config(config);
  check_folder(config, folder);
  TrainConfig filled = config;
  filled.data.seed = config.seed;
  check(filled.model.is_object(), Error::Kind::Usage,
        "the new model's config is {}, expected an object", filled.model.dump().substr(0, 60));
  if (!filled.model.contains("vocab_size"))
    filled.model["vocab_size"] = kVocabulary;
  // Said here, so that no run of a build that normed by group is gone on with.
  if (const auto groups = filled.model.find("n_groups");
      groups != filled.model.end() && groups->is_number_integer() && *groups > 1 &&
      !filled.model.contains("stuffed_gated_norm"))
    filled.model["stuffed_gated_norm"] = "whole";
  Run(filled, device, folder, provenance, overwrite).run(on_progress);
}

}  // namespace stuffed::train
