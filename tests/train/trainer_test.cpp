#include "stuffed/train/trainer.h"

#include <cmath>
#include <csignal>
#include <fstream>
#include <map>
#include <unistd.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "src/train/adamw.h"
#include "src/train/loss_watch.h"
#include "stuffed/core/error.h"
#include "stuffed/io/shards.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/io/tokenizer.h"
#include "stuffed/models/family.h"
#include "stuffed/models/registry.h"
#include "stuffed/ops/linear_cross_entropy.h"
#include "tests/support/files.h"

namespace stuffed::train {
namespace {

namespace fs = std::filesystem;

const io::json kTiny = {{"hidden_size", 16},
                        {"num_hidden_layers", 2},
                        {"head_dim", 8},
                        {"state_size", 8},
                        {"vocab_size", 256}};

TrainConfig tiny_config() {
  TrainConfig config;
  config.model = kTiny;
  config.data.mix = {{Source::Repeat, 1}};
  config.data.repeat_min = config.data.repeat_max = 8;
  config.data.window = 32;
  config.length = 16;
  config.batch = 4;
  config.schedule = {.peak = 1e-2, .last = 1e-3, .warmup = 2, .decay = 4, .steps = 12};
  config.log_every = 3;
  config.validate_every = config.checkpoint_every = 4;
  config.validation_rows = 2;
  config.validation_length = 24;
  return config;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The journal's records, without its header and end line, which carry times.
std::vector<std::string> records(const fs::path& folder) {
  std::ifstream in(folder / "train.jsonl");
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("{\"key\""))
      lines.push_back(line);
  return lines;
}

class Trainer : public ::testing::Test {
 protected:
  Trainer() : folder_(fs::temp_directory_path() / fmt::format("stuffed-train-{}", ::getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Trainer() override { fs::remove_all(folder_); }

  void run(const TrainConfig& config, const std::string& name, int64_t stop_at = -1) {
    train(config, at::kCPU, folder_ / name, {{"commit", "test"}}, false, [&](const Progress& p) {
      losses_.push_back(p.loss_nats);
      if (p.step == stop_at)
        fail(Error::Kind::Interrupted, "stopped at step {}", p.step);
    });
  }

  fs::path folder_;
  std::vector<double> losses_;
};

/// A small new model of each family, by its config.
std::map<std::string, io::json> tiny_families() {
  const io::json shape = {{"hidden_size", 16}, {"num_hidden_layers", 2}, {"vocab_size", 256}};
  const auto with = [&](io::json more) {
    more.update(shape);
    return more;
  };
  return {{"mamba2", kTiny},
          {"mamba1", with({{"state_size", 4}})},
          {"hgrn2", with({{"num_heads", 2}, {"intermediate_size", 32}, {"use_short_conv", true}})},
          {"rwkv5", with({{"head_size", 8}, {"intermediate_size", 32}})},
          {"rwkv6", with({{"head_size", 8}, {"proj_low_rank_dim", 4}, {"gate_low_rank_dim", 4}})},
          {"rwkv7", with({{"head_dim", 8},
                          {"decay_low_rank_dim", 4},
                          {"a_low_rank_dim", 4},
                          {"v_low_rank_dim", 4},
                          {"gate_low_rank_dim", 4}})}};
}

/// A new model whose matrices of zeros are none any more, so that every parameter matters.
struct ShakenModel {
  explicit ShakenModel(const std::string& family, at::ScalarType dtype = at::kFloat)
      : model(new_model(family,
                        tiny_families().at(family),
                        5,
                        {.dtype = dtype, .device = at::kCPU, .inference = false})) {
    model->visit(parameters);
    at::manual_seed(3);
    for (const auto& item : parameters.items)
      item.home->add_(at::randn_like(*item.home) * 0.1);
    optimiser = std::make_unique<AdamW>(parameters, AdamWOptions{});  // makes them leaves
  }

  Tensor loss(const Tensor& tokens, Kept kept = Kept::Activations) const {
    State state = model->initial_state(tokens.size(0));
    // In two pieces, so that gradients cross a state.
    std::vector<Tensor> hidden;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 9}, {9, tokens.size(1) - 1}})
      hidden.push_back(
          model->forward(tokens.slice(1, begin, end), state, plain_scan(), kept).hidden);
    return ops::linear_cross_entropy(at::cat(hidden, 1), model->head().linear, 256,
                                     tokens.slice(1, 1))
        .to(at::kDouble)
        .mean();
  }

  std::unique_ptr<RecurrentLM> model;
  ParameterList parameters;
  std::unique_ptr<AdamW> optimiser;
};

Tensor some_tokens() {
  return (at::arange(2 * 22).square() / 3).to(at::kLong).view({2, 22}).remainder(11);
}

TEST_F(Trainer, EveryFamilyCanBeMade) {
  EXPECT_EQ(family_names(/*new_only=*/true), family_names());
  EXPECT_EQ(tiny_families().size(), family_names().size());
}

TEST_F(Trainer, GradientsMatchFiniteDifferences) {
  for (const auto& [family, unused] : tiny_families()) {
    const ShakenModel m(family);
    const Tensor tokens = some_tokens();
    m.loss(tokens).backward();
    int resolved = 0;
    for (const auto& item : m.parameters.items) {
      const at::NoGradGuard no_grad;
      ASSERT_TRUE(item.home->grad().defined()) << family << " " << item.name;
      const Tensor gradient = item.home->grad().clone(), before = item.home->clone();
      EXPECT_GT(gradient.abs().max().item<double>(), 0) << family << " " << item.name;
      const Tensor direction = gradient / gradient.norm();  // along it the change is largest
      const double step = 1e-2 * std::max(1.0, before.norm().item<double>() * 0.1);
      const double expected = gradient.norm().item<double>();
      // The loss is f32, some 5e-7 apart: a smaller change drowns in its rounding (the gates, whose
      // gradients the recurrence's own tests check in f64).
      if (2 * step * expected < 2e-5)
        continue;
      ++resolved;
      item.home->copy_(before + step * direction);
      const double above = m.loss(tokens).item<double>();
      item.home->copy_(before - step * direction);
      const double below = m.loss(tokens).item<double>();
      item.home->copy_(before);
      EXPECT_NEAR((above - below) / (2 * step) / expected, 1, 0.05)
          << family << " " << item.name << " " << expected;
    }
    EXPECT_GE(resolved, 10) << family;
  }
}

TEST_F(Trainer, RecomputationChangesNoBit) {
  for (const auto& [family, unused] : tiny_families()) {
    const ShakenModel kept(family), recomputed(family);
    const Tensor loss = kept.loss(some_tokens()),
                 same = recomputed.loss(some_tokens(), Kept::BlockInputs);
    EXPECT_TRUE(testing::bitwise_equal(same, loss)) << family;
    loss.backward();
    same.backward();
    for (size_t i = 0; i < kept.parameters.items.size(); ++i)
      EXPECT_TRUE(testing::close(recomputed.parameters.items[i].home->grad(),
                                 kept.parameters.items[i].home->grad(), 1e-6))
          << family << " " << kept.parameters.items[i].name;
  }
}

TEST_F(Trainer, Bf16GradientsAreThoseOfF32Roughly) {
  for (const auto& [family, unused] : tiny_families()) {
    const ShakenModel f32(family), bf16(family, at::kBFloat16);
    f32.loss(some_tokens()).backward();
    bf16.loss(some_tokens()).backward();
    const auto all = [](const ShakenModel& m) {
      std::vector<Tensor> gradients;
      for (const auto& item : m.parameters.items)
        gradients.push_back(item.home->grad().flatten());
      EXPECT_EQ(gradients[0].scalar_type(), at::kFloat);
      return at::cat(gradients);
    };
    EXPECT_TRUE(testing::close(all(bf16), all(f32), 0.1)) << family;
  }
}

/// A folder of shards of these documents.
fs::path shards_of(const fs::path& folder, const std::vector<std::string>& documents) {
  io::ShardWriter writer(folder, io::load_tokenizer("bytes"), {}, false);
  for (const std::string& text : documents)
    writer.add(std::vector<int32_t>(text.begin(), text.end()));
  writer.finish();
  return folder;
}

std::string sentence(int64_t length, int64_t step) {
  std::string text;
  for (int64_t i = 0; i < length; ++i)
    text.push_back(static_cast<char>('a' + i * step % 26));
  return text;
}

/// A run that changes no weight of a model in which everything matters: one row of one document, or
/// of several.
TrainConfig still_config(const std::string& family,
                         const fs::path& shards,
                         int64_t length,
                         int64_t segments) {
  TrainConfig config = tiny_config();
  config.init_from = shards.parent_path() / (family + "-shaken");
  save_model(*ShakenModel(family).model, config.init_from);
  const Source source(Source::Shards, "s");
  config.data.shards = {{"s", shards}};
  config.data.mix = {{source, 1}};
  config.data.window = length * segments;
  config.length = length;
  config.segments = segments;
  config.batch = 1;
  config.schedule = {.peak = 0, .last = 0, .warmup = 0, .decay = 0, .steps = segments};
  config.log_every = 1;
  return config;
}

/// Mean losses of the new model on these bytes, fed from an empty state, by stretches of `length`.
std::vector<double> losses_of(const TrainConfig& config, const std::string& text, int64_t length) {
  const auto model = load_model(config.init_from, {.dtype = at::kFloat, .inference = false});
  const at::NoGradGuard no_grad;
  const std::vector<int64_t> ids(text.begin(), text.end());
  const Tensor tokens = at::tensor(ids).unsqueeze(0);
  State state = model->initial_state(1);
  const Tensor nll = ops::linear_cross_entropy(model->forward(tokens.slice(1, 0, -1), state).hidden,
                                               model->head().linear, 256, tokens.slice(1, 1));
  std::vector<double> means;
  for (int64_t begin = 0; begin < nll.size(1); begin += length)
    means.push_back(nll.slice(1, begin, begin + length).mean().item<double>());
  return means;
}

TEST_F(Trainer, SegmentsGoOnFromTheStateOfTheOneBefore) {
  const std::string text = sentence(49, 5);
  for (const auto& [family, unused] : tiny_families()) {
    const TrainConfig config =
        still_config(family, shards_of(folder_ / (family + "-set"), {text}), 16, 3);
    losses_.clear();
    run(config, family);
    const std::vector<double> expected = losses_of(config, text, 16);
    ASSERT_EQ(losses_.size(), 3);
    for (size_t i = 0; i < 3; ++i)
      EXPECT_NEAR(losses_[i], expected[i], 3e-6) << family << " " << i;
  }
}

TEST_F(Trainer, ADocumentBeginsFromAnEmptyStateOrFromTheOneBefore) {
  const std::string first = sentence(20, 7), second = sentence(29, 11);
  const fs::path set = shards_of(folder_ / "set", {first, second});
  TrainConfig config = still_config("hgrn2", set, 48, 1);
  // Which document comes first is drawn; the one that does not is cut by the window's end.
  config.seed = 1;
  run(config, "reset");
  config.resets_documents = false;
  run(config, "carry");
  ASSERT_EQ(losses_.size(), 2);
  std::vector<double> carried, reset;
  for (const auto& [a, b] : {std::pair{first, second}, {second, first}}) {
    carried.push_back(losses_of(config, a + b, 48)[0]);
    const auto sum = [&](const std::string& text) {
      return losses_of(config, text, 100)[0] * static_cast<double>(text.size() - 1);
    };
    // The last token of the first is followed by the second's, whose own last one is a target.
    reset.push_back((sum(a + b.substr(0, 1)) + sum(b)) / 48);
  }
  const size_t order = std::abs(losses_[1] - carried[0]) < 3e-6 ? 0 : 1;
  EXPECT_NEAR(losses_[1], carried[order], 3e-6);
  EXPECT_NEAR(losses_[0], reset[order], 3e-6);
  EXPECT_GT(std::abs(losses_[0] - losses_[1]), 1e-5);
}

TEST_F(Trainer, PartsOfABatchAddUp) {
  TrainConfig config = tiny_config();
  config.schedule.steps = 6;
  config.log_every = 1;
  run(config, "whole");
  const std::vector<double> whole = losses_;
  losses_.clear();
  config.accumulate = 2;
  run(config, "parts");
  for (size_t i = 0; i < whole.size(); ++i)
    EXPECT_NEAR(losses_[i], whole[i], 1e-4) << i;
}

TEST_F(Trainer, WhatARowStartsFromIsChosen) {
  const fs::path set = shards_of(folder_ / "set", {sentence(200, 3)});
  TrainConfig config = still_config("rwkv6", set, 16, 2);
  config.schedule.steps = 4;
  std::map<std::string, std::vector<double>> found;
  for (const auto& [name, kind] : {std::pair{"empty", InitialState::Empty},
                                   {"passed", InitialState::Passed},
                                   {"noise", InitialState::Noise},
                                   {"fitted", InitialState::FittedNoise}}) {
    config.initial_state = kind;
    config.noise_deviation = kind == InitialState::Noise ? 0.5 : 0;
    losses_.clear();
    run(config, name);
    found[name] = losses_;
  }
  // Windows follow one another in the only document, so a state passed on is the document's own.
  const std::vector<double> whole = losses_of(config, sentence(65, 3), 16);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(found["passed"][i], whole[i], 3e-6) << i;
    EXPECT_NEAR(found["empty"][i],
                losses_of(config, sentence(200, 3).substr(i / 2 * 32, 33), 16)[i % 2], 3e-6)
        << i;
  }
  EXPECT_GT(std::abs(found["noise"][0] - found["empty"][0]), 1e-4);
  EXPECT_EQ(found["fitted"][0], found["empty"][0]);  // nothing is left to fit yet
  EXPECT_GT(std::abs(found["fitted"][2] - found["empty"][2]), 1e-7);
}

TEST_F(Trainer, EveryFamilyIsReadBackAsItWasSaved) {
  for (const auto& [family, model] : tiny_families()) {
    TrainConfig config = tiny_config();
    config.family = family;
    config.model = model;
    config.schedule = {.peak = 1e-2, .last = 1e-3, .warmup = 0, .decay = 2, .steps = 3};
    run(config, family);
    const auto kept = io::TensorFile::open(folder_ / family / "checkpoint.safetensors");
    const auto read = load_model(folder_ / family, {.dtype = at::kFloat, .inference = false});
    EXPECT_EQ(read->config().family, family);
    EXPECT_TRUE(read->config().warnings.empty()) << family << read->config().warnings[0];
    EXPECT_TRUE(read->config().unknown_keys.empty()) << family << read->config().unknown_keys[0];
    ParameterList parameters;
    read->visit(parameters);
    for (const auto& item : parameters.items)
      EXPECT_TRUE(testing::bitwise_equal(*item.home, kept.load("weight." + item.name)))
          << family << " " << item.name;
    // And trained on: a run that moves nothing saves the same weights again.
    TrainConfig more = tiny_config();
    more.init_from = folder_ / family;
    more.schedule = {.peak = 0, .last = 0, .warmup = 0, .decay = 0, .steps = 1};
    run(more, family + "-again");
    for (const char* file : {"model.safetensors", "config.json"})
      EXPECT_EQ(bytes_of(folder_ / (family + "-again") / file), bytes_of(folder_ / family / file))
          << family << " " << file;
  }
}

TEST(LossWatch, ASpikeIsSaidAndBarelyBelieved) {
  LossWatch watch(50, at::kCPU);
  std::vector<Spike> spikes;
  for (int64_t step = 1; step <= 200; ++step) {
    const double loss = step == 120   ? 9
                        : step == 140 ? NAN
                                      : 3 + 0.05 * static_cast<double>(step % 3);
    watch.note(step, at::scalar_tensor(loss));
    if (step % 50 == 0)
      for (const Spike& spike : watch.look(step))
        spikes.push_back(spike);
  }
  ASSERT_EQ(spikes.size(), 2);
  EXPECT_EQ(spikes[0].step, 120);
  EXPECT_EQ(spikes[0].loss_nats, 9);
  EXPECT_NEAR(spikes[0].expected_nats, 3.05, 0.05);
  EXPECT_EQ(spikes[1].step, 140);
  EXPECT_TRUE(std::isnan(spikes[1].loss_nats));
}

TEST_F(Trainer, OverfitsAString) {
  TrainConfig config = tiny_config();
  config.data.mix = {{Source::Text, 1}};
  std::ofstream(folder_ / "text") << "abracadabra and hocus pocus, fidi";  // one window
  config.data.text = {folder_ / "text"};
  config.schedule = {.peak = 2e-2, .last = 2e-3, .warmup = 5, .decay = 20, .steps = 120};
  config.log_every = 10;
  config.weight_decay = 0;
  run(config, "overfit");
  EXPECT_GT(losses_.front(), 3);
  EXPECT_LT(losses_.back(), 0.1);
}

TEST_F(Trainer, AStoppedRunGoesOnToTheSameBytes) {
  TrainConfig rich = tiny_config();  // with all that a checkpoint must hold
  rich.family = "rwkv6";
  rich.model = tiny_families().at("rwkv6");
  rich.data.shards = {{"s", shards_of(folder_ / "set", {sentence(150, 3), sentence(90, 5)})}};
  rich.data.mix = {{Source(Source::Shards, "s"), 0.5}, {Source::Recall, 0.5}};
  rich.data.window = 64;
  rich.segments = 4;
  rich.accumulate = 2;
  rich.initial_state = InitialState::FittedNoise;
  TrainConfig passed = rich;
  passed.initial_state = InitialState::Passed;
  passed.dtype = "bf16";
  passed.recompute = true;
  int number = 0;
  for (const TrainConfig& config : {tiny_config(), rich, passed}) {
    const std::string whole = fmt::format("whole{}", ++number);
    run(config, whole);
    // Between two checkpoints, after one, and before the first.
    for (const int64_t stop_at : {9, 6, 3}) {
      const std::string name = fmt::format("stopped{}-{}", number, stop_at);
      EXPECT_THROW(run(config, name, stop_at), Error);
      EXPECT_FALSE(fs::exists(folder_ / name / "model.safetensors"));
      run(config, name);
      for (const char* file : {"model.safetensors", "config.json", "checkpoint.safetensors"})
        EXPECT_EQ(bytes_of(folder_ / name / file), bytes_of(folder_ / whole / file))
            << number << file;
      EXPECT_EQ(records(folder_ / name), records(folder_ / whole)) << number;
    }
  }
}

TEST_F(Trainer, RefusesAnotherConfigurationsFolder) {
  TrainConfig config = tiny_config();
  run(config, "run");
  config.schedule.peak = 2e-2;
  try {
    run(config, "run");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), 2);
    EXPECT_NE(std::string(error.what()).find("learning_rate"), std::string::npos) << error.what();
  }
}

/// The first line that holds `key`, with `field` set to `value`.
void edit_record(const fs::path& journal,
                 const std::string& key,
                 const std::string& field,
                 const io::json& value) {
  std::ifstream in(journal);
  std::string text;
  for (std::string line; std::getline(in, line); text += line + "\n")
    if (line.starts_with(fmt::format("{{\"key\":\"{}\"", key))) {
      nlohmann::ordered_json record = nlohmann::ordered_json::parse(line);
      record[field] = value;
      line = record.dump();
    }
  std::ofstream(journal) << text;
}

TEST_F(Trainer, AnEditedRecordIsRefused) {
  const TrainConfig config = tiny_config();
  run(config, "finished");
  EXPECT_THROW(run(config, "stopped", 9), Error);
  const std::vector<std::tuple<std::string, std::string, io::json>> edits = {
      {"step=6", "step", 5},
      {"step=6", "step", 6.0},
      {"step=6", "step", 1e30},
      {"step=6", "tokens", 1},
      {"step=6", "loss_nats", "low"},
      {"step=6", "loss_nats", nullptr},
      {"step=6", "loss_nats", -1},
      {"step=6", "gradient_norm", {1}},
      {"step=6", "learning_rate", 0.5},
      {"step=6", "learning_rate", nullptr},
      {"step=6", "key", "step=06"},
      {"step=6", "key", "epoch=6"},
      {"validation/step=4/repeat", "source", "text"},
      {"validation/step=4/repeat", "source", 3},
      {"validation/step=4/repeat", "step", 8},
      {"validation/step=4/repeat", "within_length_nats", "low"},
      {"validation/step=4/repeat", "beyond_length_nats", {2}},
  };
  for (const char* name : {"finished", "stopped"})
    for (const auto& [key, field, value] : edits) {
      SCOPED_TRACE(fmt::format("{}: {} {} = {}", name, key, field, value.dump()));
      const fs::path journal = folder_ / "edited" / "train.jsonl";
      fs::remove_all(folder_ / "edited");
      fs::copy(folder_ / name, folder_ / "edited", fs::copy_options::recursive);
      edit_record(journal, key, field, value);
      const std::string before = bytes_of(journal);
      testing::expect_error(Error::Kind::Input, {"train.jsonl", "record"},
                            [&] { run(config, "edited"); });
      EXPECT_EQ(bytes_of(journal), before) << "what is not understood is left alone";
    }
  run(config, "finished");
}

TEST_F(Trainer, ACheckpointOfNoStepIsRefused) {
  const TrainConfig config = tiny_config();
  EXPECT_THROW(run(config, "run", 9), Error);
  const fs::path checkpoint = folder_ / "run" / "checkpoint.safetensors";
  const auto file = io::TensorFile::open(checkpoint);
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, entry] : file.entries())
    tensors.emplace_back(name, file.load(name).clone());
  for (const std::string step : {"", "x", "8x", "-1", "13", "99999999999999999999"}) {
    auto metadata = file.metadata();
    metadata["step"] = step;
    io::write_safetensors(checkpoint, tensors, metadata);
    testing::expect_error(Error::Kind::Input, {"checkpoint.safetensors", "step"},
                          [&] { run(config, "run"); });
  }
}

TEST_F(Trainer, WhatItSavesIsReadBackAsTheSameModel) {
  run(tiny_config(), "run");
  const auto model = load_model(folder_ / "run");
  EXPECT_EQ(model->config().family, "mamba2");
  EXPECT_EQ(model->config().layout, "hf");
  EXPECT_EQ(model->config().vocab, 256);
  EXPECT_EQ(io::find_tokenizer(folder_ / "run")->kind(), "bytes");
  const auto weights = io::TensorFile::open(folder_ / "run" / "model.safetensors");
  const auto kept = io::TensorFile::open(folder_ / "run" / "checkpoint.safetensors");
  for (const auto& [name, entry] : weights.entries())
    EXPECT_TRUE(testing::bitwise_equal(weights.load(name), kept.load("weight." + name))) << name;
}

TEST_F(Trainer, Bf16LearnsToo) {
  TrainConfig config = tiny_config();
  config.dtype = "bf16";
  config.schedule.steps = 60;
  config.log_every = 10;
  run(config, "bf16");
  EXPECT_LT(losses_.back(), losses_.front() - 0.5);
  const auto weights = io::TensorFile::open(folder_ / "bf16" / "model.safetensors");
  EXPECT_EQ(weights.entries().at("backbone.embeddings.weight").dtype, at::kFloat);
}

TEST_F(Trainer, RefusesLengthsThatDoNotTileTheWindow) {
  TrainConfig config = tiny_config();
  config.length = 24;
  EXPECT_THROW(run(config, "run"), Error);
  config.length = 16;
  config.batch = 3;
  EXPECT_THROW(run(config, "run"), Error);
}

}  // namespace
}  // namespace stuffed::train
