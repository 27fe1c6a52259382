#include "stuffed/train/trainer.h"

#include <array>
#include <chrono>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "src/train/adamw.h"
#include "src/train/carried_state.h"
#include "src/train/check_records.h"
#include "src/train/checkpoint.h"
#include "src/train/describe_run.h"
#include "src/train/loss_watch.h"
#include "src/train/validation.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/shards.h"
#include "stuffed/models/registry.h"
#include "stuffed/models/vocabulary.h"
#include "stuffed/ops/linear_cross_entropy.h"

namespace stuffed::train {

namespace fs = std::filesystem;

namespace {

constexpr const char* kJournalFile = "train.jsonl";
constexpr const char* kCheckpointFile = "checkpoint.safetensors";
constexpr std::array<const char*, 2> kModelFiles = {"model.safetensors", "config.json"};

/// What ranks agree on between steps.
constexpr uint32_t kStop = 1, kSave = 2;

/// Errors  Usage for a file of the run's own that it reads too
void guard_files(const TrainConfig& config, const fs::path& folder, const std::string& tokenizer) {
  io::OutputGuard guard;
  for (const fs::path& text : config.data.text)
    guard.reads("--text", text);
  for (const fs::path& text : config.data.held_out)
    guard.reads("--held-out", text);
  for (const auto* sets : {&config.data.shards, &config.data.held_out_shards})
    for (const auto& [name, set] : *sets)
      guard.reads("--shards", set / io::kShardsFile);
  guard.reads("--model-config", config.model_file);
  if (!config.init_from.empty())
    guard.reads_model("--init-from", config.init_from);
  for (const char* name : {kJournalFile, kCheckpointFile, kModelFiles[0], kModelFiles[1]})
    guard.writes("-o", folder / name);
  guard.writes("-o", folder / tokenizer);
}

/// A folder with a model but with neither journal nor checkpoint is not ours to train into.
/// Errors  Input
void check_folder(const fs::path& folder, const std::string& tokenizer) {
  std::error_code error;
  const bool has_journal =
      fs::exists(folder / kJournalFile, error) && !fs::is_empty(folder / kJournalFile, error);
  if (has_journal || is_checkpoint(folder / kCheckpointFile))
    return;
  for (const std::string& name : {std::string(kCheckpointFile), std::string(kModelFiles[0]),
                                  std::string(kModelFiles[1]), tokenizer})
    check(!fs::exists(folder / name, error), Error::Kind::Input,
          "{}: is there, but its journal {} is not; name another folder", (folder / name).string(),
          kJournalFile);
}

std::unique_ptr<RecurrentLM> make_model(const TrainConfig& config,
                                        const io::Tokenizer& tokenizer,
                                        at::Device device) {
  const Reading reading = {.gated_norm = config.gated_norm,
                           .tokenizer_ids = deciding_ids(tokenizer)};
  const LoadOptions options = {.dtype = config.dtype == "bf16" ? at::kBFloat16 : at::kFloat,
                               .device = device,
                               .inference = false,
                               .reading = reading};
  return config.init_from.empty() ? new_model(config.family, config.model, config.seed, options)
                                  : load_model(config.init_from, options);
}

/// The configuration, with what follows from the data and from the model that it begins with.
TrainConfig completed(TrainConfig config, const TrainingData& data) {
  if (!config.init_from.empty())
    return config;
  check(config.model.is_object(), Error::Kind::Usage,
        "the new model's config is {}, expected an object", config.model.dump().substr(0, 60));
  if (!config.model.contains("vocab_size"))
    config.model["vocab_size"] = data.tokenizer().vocab_size();
  // Said here, so that no run of a build that normed by group is gone on with.
  if (const auto groups = config.model.find("n_groups");
      groups != config.model.end() && groups->is_number_integer() && *groups > 1 &&
      !config.model.contains("stuffed_gated_norm"))
    config.model["stuffed_gated_norm"] = "whole";
  return config;
}

class Run {
 public:
  Run(const TrainConfig& config,
      at::Device device,
      const fs::path& folder,
      const io::json& provenance,
      bool overwrite,
      Ranks& ranks)
      : ranks_(ranks),
        device_(device),
        folder_(folder),
        data_(config.data),
        tokenizer_file_(io::saved_tokenizer_name(data_.tokenizer())),
        config_(completed(config, data_)),
        model_(checked_model()),
        rule_(build_recurrence({.mitigations = {}, .impl = Impl::Chunked})),
        described_(describe_run(config_, data_, *model_, device)),
        carried_(*model_, config_, ranks),
        loss_sum_(at::zeros({}, at::TensorOptions().device(device).dtype(at::kDouble))),
        watch_(config_.log_every, device) {
    if (ranks_.is_first())
      journal_ = open_journal(provenance, overwrite);
    ParameterList parameters;
    model_->visit(parameters);
    optimiser_ =
        std::make_unique<AdamW>(parameters, AdamWOptions{.weight_decay = config.weight_decay,
                                                         .undecayed = config.undecayed,
                                                         .beta1 = config.beta1,
                                                         .beta2 = config.beta2,
                                                         .eps = config.eps,
                                                         .clip = config.clip});
    if (ranks_.is_first()) {
      if (overwrite)
        for (const std::string& name : files())
          fs::remove(folder / name);
      restore();
      check_complete();
      is_finished_ = journal_->finished();
    }
    share();
  }

  void run(const std::function<void(const Progress&)>& on_progress) {
    if (!is_finished_ && !take_steps(on_progress))
      stop();
    if (!is_finished_ && ranks_.is_first()) {
      save_model(*model_, folder_);
      io::save_tokenizer(data_.tokenizer(), folder_);
      journal_->finish();
    }
    ranks_.end();
  }

 private:
  using Clock = std::chrono::steady_clock;

  /// What a run writes besides its journal.
  std::vector<std::string> files() const {
    return {kCheckpointFile, kModelFiles[0], kModelFiles[1], tokenizer_file_};
  }

  io::Journal open_journal(const io::json& provenance, bool overwrite) {
    return io::Journal::open(
        folder_ / kJournalFile,
        {.schema = "stuffed.train",
         .version = 1,
         .config = described_,
         .provenance = provenance,
         .check_record = [this](const io::json& record) { check_record(record, config_); }},
        overwrite);
  }

  std::unique_ptr<RecurrentLM> checked_model() {
    if (ranks_.is_first()) {
      guard_files(config_, folder_, tokenizer_file_);
      check_folder(folder_, tokenizer_file_);
    }
    auto model = make_model(config_, data_.tokenizer(), device_);
    const int64_t ids = data_.tokenizer().vocab_size();
    check(model->config().vocab >= ids, Error::Kind::Usage,
          "the model's vocabulary is {}; training is on tokens of '{}': {}", model->config().vocab,
          data_.tokenizer().kind(), ids);
    if (!config_.init_from.empty()) {
      config_.family = model->config().family;
      config_.model = model->save_config();  // refused here, if it cannot be saved
    }
    return model;
  }

  /// Until all are taken; false if a rank is to stop before: all leave at the same step.
  bool take_steps(const std::function<void(const Progress&)>& on_progress) {
    try {
      validate_if_due();  // in case that the run was stopped in it
      bool goes_on = settle(/*is_time_to_save=*/false);
      while (goes_on && step_ < config_.schedule.steps)
        goes_on = advance(on_progress);
      return goes_on;
    } catch (const Error& error) {
      if (error.kind() != Error::Kind::Interrupted)
        throw;
      ranks_.agree(
          kStop);  // the others ask at the end of the step or validation that this one left
      return false;
    }
  }

  bool advance(const std::function<void(const Progress&)>& on_progress) {
    const double rate = learning_rate(config_.schedule, step_);
    const std::optional<Tensor> norm = take_step(rate);
    if (!norm)
      return false;
    ++step_;
    if (is_due(config_.log_every))
      report(rate, *norm, on_progress);
    validate_if_due();
    const std::chrono::duration<double> unsaved = Clock::now() - saved_at_;
    return settle(is_due(config_.checkpoint_every) ||
                  (config_.save_every > 0 && unsaved.count() >= config_.save_every));
  }

  /// Saves if rank 0 finds it is time to. False if a signal came to any rank.
  bool settle(bool is_time_to_save) {
    const bool saves = is_time_to_save && ranks_.is_first();  // clocks differ
    const uint32_t agreed = ranks_.agree((interrupted() ? kStop : 0) | (saves ? kSave : 0));
    if (agreed & kStop)
      return false;
    if (agreed & kSave)
      save_progress();
    return true;
  }

  bool is_due(int64_t every) const { return step_ % every == 0 || step_ == config_.schedule.steps; }

  // ---- checkpoints ----

  void save_progress() {
    const NamedTensors tensors = remembered();
    if (ranks_.is_first())
      save_checkpoint(folder_ / kCheckpointFile, tensors, step_, described_);
    saved_at_ = Clock::now();
  }

  /// Between two steps, or where one was left that changed nothing yet.
  [[noreturn]] void stop() {
    optimiser_->clear_gradients();
    save_progress();
    ranks_.end();  // nobody leaves before rank 0 has saved: launchers end the others when one does
    if (!ranks_.is_first())
      throw Error(Error::Kind::Interrupted, "");
    fail(Error::Kind::Interrupted,
         "stopped by {} after step {} of {}, which is saved in {}: run the same command again to "
         "go on",
         interrupted() || ranks_.is_alone() ? signal_name() : "a signal to another rank", step_,
         config_.schedule.steps, (folder_ / kCheckpointFile).string());
  }

  /// All that decides the steps to come, but for the carried states.
  NamedTensors remembered_always() const {
    NamedTensors tensors = optimiser_->tensors();
    tensors.emplace_back("loss_sum", loss_sum_);
    return tensors;
  }

  NamedTensors remembered() const {
    NamedTensors tensors = remembered_always();
    for (const NamedTensors& more : {watch_.tensors(), carried_.tensors()})
      tensors.insert(tensors.end(), more.begin(), more.end());
    const DataPosition& position = step_ / config_.segments == drawn_ ? before_ : after_;
    for (const auto& [name, windows] : position)
      tensors.emplace_back("data." + name, at::scalar_tensor(windows, at::kLong));
    return tensors;
  }

  void restore() {
    const auto saved = SavedRun::open(folder_ / kCheckpointFile, described_);
    if (!saved)
      return;
    step_ = saved->step();
    check(step_ <= config_.schedule.steps, Error::Kind::Input,
          "{}: says it is of step {}, but the run has {} steps",
          (folder_ / kCheckpointFile).string(), step_, config_.schedule.steps);
    saved->restore(remembered_always());
    if (saved->has("loss.recent"))  // else it is of an older build
      saved->restore(watch_.tensors());
    carried_.restore(*saved);
    for (const auto& [name, folder] : config_.data.shards) {
      const Tensor windows = at::zeros({}, at::kLong);
      if (saved->has("data." + name))
        saved->restore({{"data." + name, windows}});
      after_[name] = windows.item<int64_t>();
    }
  }

  /// Rank 0 tells the others where the run is, and gives them its weights and all the rest: they need
  /// no file of it.
  /// Errors  Usage if this rank was started with other options or data
  void share() {
    if (ranks_.is_alone())
      return;
    const io::json own = {{"config", described_},
                          {"step", step_},
                          {"is_finished", is_finished_},
                          {"position", after_}};
    const io::json first = io::parse_json(ranks_.broadcast(own.dump()), "rank 0");
    for (const auto& [key, value] : first.at("config").items())
      check(
          described_.contains(key) && described_.at(key) == value, Error::Kind::Usage,
          "--distributed: {} is {} here, but {} on rank 0; start all ranks with the same options, "
          "files and build",
          key, described_.contains(key) ? described_.at(key).dump() : "missing", value.dump());
    step_ = first.at("step");
    is_finished_ = first.at("is_finished");
    after_ = first.at("position").get<DataPosition>();
    std::vector<Tensor> tensors;
    for (const auto& [name, tensor] : optimiser_->tensors())
      tensors.push_back(tensor);
    ranks_.broadcast(tensors);
    carried_.share();
  }

  /// What the journal says was done must be there, and the other way round.
  void check_complete() const {
    for (int64_t step = config_.log_every; step <= step_; step += config_.log_every)
      check(journal_->done(step_key(step)), Error::Kind::Input,
            "{}: goes up to step {}, but the journal {} lacks step {}; put the right journal back, "
            "or start anew with --overwrite",
            (folder_ / kCheckpointFile).string(), step_, kJournalFile, step);
    if (!journal_->finished())
      return;
    for (const std::string& name : files())  // whoever has the model may do without the checkpoint
      check(name == kCheckpointFile || fs::exists(folder_ / name), Error::Kind::Input,
            "{}: is missing, though {} is finished; --overwrite trains anew",
            (folder_ / name).string(), kJournalFile);
  }

  // ---- a step ----

  /// The rows that this step and the others of its segments go through.
  const Batch& batch() {
    const int64_t round = step_ / config_.segments;
    if (round == drawn_)
      return batch_;
    const int64_t windows = config_.batch * config_.span() / config_.data.window;
    before_ = after_;
    batch_ = data_.sequences(round, windows, config_.span(), after_);
    drawn_ = round;
    return batch_;
  }

  /// Mean loss of one batch, backward, update. Returns the gradient's norm; none if another rank left
  /// the step. Until the update nothing has changed that would keep it from being taken again.
  std::optional<Tensor> take_step(double rate) {
    carried_.prepare(step_);
    batch();
    std::vector<State> left;
    Tensor loss;
    for (int64_t part = 0; part < config_.accumulate; ++part) {
      left.push_back(carried_.start(step_, part));
      Tensor own = part_loss(part, left.back());
      if (config_.accumulate > 1)
        own = own / config_.accumulate;
      own.backward();
      loss = loss.defined() ? loss + own.detach() : own.detach();
    }
    if (ranks_.agree(0) != 0)
      return std::nullopt;
    std::vector<Tensor> averaged = optimiser_->gradients();
    averaged.push_back(loss);
    ranks_.average(averaged);
    const Tensor norm = optimiser_->step(rate);
    carried_.finish(step_, std::move(left));
    loss_sum_.add_(loss);
    watch_.note(step_ + 1, loss);
    return norm;
  }

  /// Mean loss of this rank's sequences of one part, from `state` on. Where a document begins in a row the
  /// segment is cut in all of them, and that row's state begins anew.
  Tensor part_loss(int64_t part, State& state) const {
    const int64_t rows = config_.batch / config_.accumulate / ranks_.size();
    const int64_t first = (part * ranks_.size() + ranks_.rank()) * rows;
    const int64_t begin = step_ % config_.segments * config_.length;
    const Tensor tokens =
        batch_.tokens.narrow(0, first, rows).narrow(1, begin, config_.length + 1).to(device_);
    std::map<int64_t, std::vector<int64_t>> restarts = {{0, {}}};  // rows by position
    for (int64_t row = 0; config_.resets_documents && row < rows; ++row)
      for (const int64_t start : batch_.starts[static_cast<size_t>(first + row)])
        if (start >= begin && start < begin + config_.length)
          restarts[start - begin].push_back(row);
    std::vector<Tensor> hidden;
    for (auto cut = restarts.begin(); cut != restarts.end(); ++cut) {
      restart(state, cut->second);
      const int64_t end = std::next(cut) == restarts.end() ? config_.length : std::next(cut)->first;
      hidden.push_back(model_
                           ->forward(tokens.slice(1, cut->first, end), state, *rule_,
                                     config_.recompute ? Kept::BlockInputs : Kept::Activations)
                           .hidden);
    }
    const LmHead& head = model_->head();
    return ops::linear_cross_entropy(hidden.size() == 1 ? hidden[0] : at::cat(hidden, 1),
                                     head.linear, head.vocab, tokens.slice(1, 1))
        .mean();
  }

  // ---- records ----

  void report(double rate,
              const Tensor& norm,
              const std::function<void(const Progress&)>& on_progress) {
    if (!ranks_.is_first())
      return;
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
    for (const Spike& spike : watch_.look(step_))
      append(spike_key(spike.step),
             {{"step", spike.step},
              {"loss_nats", spike.loss_nats},
              {"expected_nats", spike.expected_nats}},
             std::isfinite(spike.loss_nats));
    on_progress(progress);
  }

  /// Losses on each source of the mixture.
  void validate_if_due() {
    if (step_ == 0 || !is_due(config_.validate_every) || !ranks_.is_first())
      return;
    for (const auto& [source, share] : config_.data.mix) {
      const std::string key = validation_key(step_, source_name(source));
      if (share == 0 || !data_.has_validation(source) || journal_->done(key))
        continue;
      const int64_t length = std::max(config_.validation_length, config_.length);
      const Tensor tokens = data_.validation(source, config_.validation_rows, length).to(device_);
      io::json fields = validation_fields(validation_nll(*model_, *rule_, tokens), config_.length);
      fields["step"] = step_;
      fields["source"] = source_name(source);
      append(key, fields, is_finite(fields));
    }
  }

  void append(const std::string& key, io::json fields, bool finite) {
    if (journal_->done(key))  // a run that goes on from a checkpoint repeats the steps after it
      return;
    if (!finite)
      fields["finite"] = false;
    journal_->append(key, fields);
  }

  Ranks& ranks_;
  at::Device device_;
  fs::path folder_;
  TrainingData data_;
  std::string tokenizer_file_;
  TrainConfig config_;
  std::unique_ptr<RecurrentLM> model_;
  std::shared_ptr<const Recurrence> rule_;
  io::json described_;
  std::unique_ptr<AdamW> optimiser_;
  CarriedState carried_;
  Tensor loss_sum_;  // f64, on the device: of the steps since the last report
  LossWatch watch_;
  std::optional<io::Journal> journal_;  // of rank 0
  bool is_finished_ = false;
  int64_t step_ = 0;  // steps taken
  Batch batch_;       // of round `drawn_`, which is `segments` steps long
  int64_t drawn_ = -1;
  DataPosition before_, after_;  // that round
  Clock::time_point saved_at_ = Clock::now();
};

}  // namespace

void train(const TrainConfig& config,
           at::Device device,
           const fs::path& folder,
           const io::json& provenance,
           bool overwrite,
           const std::function<void(const Progress&)>& on_progress,
           Ranks& ranks) {
  TrainConfig filled = config;
  filled.data.seed = config.seed;
  check_train_config(filled, ranks.size());
  Run(filled, device, folder, provenance, overwrite, ranks).run(on_progress);
}

void train(const TrainConfig& config,
           at::Device device,
           const fs::path& folder,
           const io::json& provenance,
           bool overwrite,
           const std::function<void(const Progress&)>& on_progress) {
  Ranks alone;
  train(config, device, folder, provenance, overwrite, on_progress, alone);
}

}  // namespace stuffed::train
