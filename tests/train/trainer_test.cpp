#include "stuffed/train/trainer.h"

#include <csignal>
#include <fstream>
#include <unistd.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "src/train/adamw.h"
#include "stuffed/core/error.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/io/tokenizer.h"
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

TEST_F(Trainer, EveryParameterGetsAGradient) {
  const auto model =
      new_model("mamba2", kTiny, 1, {.dtype = at::kFloat, .device = at::kCPU, .inference = false});
  ParameterList parameters;
  model->visit(parameters);
  const AdamW optimiser(parameters, {});  // makes them leaves
  State state = model->initial_state(2);
  const Tensor tokens = at::arange(2 * 21).view({2, 21}).remainder(7);
  const Output out = model->forward(tokens.slice(1, 0, 20), state);
  ops::linear_cross_entropy(out.hidden, model->head().linear, 256, tokens.slice(1, 1))
      .mean()
      .backward();
  for (const auto& item : parameters.items) {
    ASSERT_TRUE(item.home->grad().defined()) << item.name;
    EXPECT_GT(item.home->grad().abs().max().item<double>(), 0) << item.name;
  }
}

TEST_F(Trainer, GradientsMatchFiniteDifferences) {
  const auto model =
      new_model("mamba2", kTiny, 5, {.dtype = at::kFloat, .device = at::kCPU, .inference = false});
  ParameterList parameters;
  model->visit(parameters);
  const AdamW optimiser(parameters, {});
  const Tensor tokens = at::arange(2 * 18).view({2, 18}).remainder(5);
  const auto loss = [&] {
    State state = model->initial_state(2);
    const Output out = model->forward(tokens.slice(1, 0, 17), state);
    return ops::linear_cross_entropy(out.hidden, model->head().linear, 256, tokens.slice(1, 1))
        .to(at::kDouble)
        .mean();
  };
  loss().backward();
  int resolved = 0;
  for (const auto& item : parameters.items) {
    const at::NoGradGuard no_grad;
    const Tensor gradient = item.home->grad().clone(), before = item.home->clone();
    const Tensor direction = gradient / gradient.norm();  // along it the change is largest
    const double step = 1e-2 * std::max(1.0, before.norm().item<double>() * 0.1);
    const double expected = gradient.norm().item<double>();
    // The loss is f32, some 5e-7 apart: a smaller change drowns in its rounding (the gates, whose
    // gradients the recurrence's own tests check in f64).
    if (2 * step * expected < 2e-5)
      continue;
    ++resolved;
    item.home->copy_(before + step * direction);
    const double above = loss().item<double>();
    item.home->copy_(before - step * direction);
    const double below = loss().item<double>();
    item.home->copy_(before);
    const double measured = (above - below) / (2 * step);
    EXPECT_NEAR(measured / expected, 1, 0.05) << item.name << " " << expected;
  }
  EXPECT_GE(resolved, 10);
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
  const TrainConfig config = tiny_config();
  run(config, "whole");
  // Between two checkpoints, after one, and before the first.
  for (const int64_t stop_at : {9, 6, 3}) {
    const std::string name = fmt::format("stopped{}", stop_at);
    EXPECT_THROW(run(config, name, stop_at), Error);
    EXPECT_FALSE(fs::exists(folder_ / name / "model.safetensors"));
    run(config, name);
    for (const char* file : {"model.safetensors", "config.json", "checkpoint.safetensors"})
      EXPECT_EQ(bytes_of(folder_ / name / file), bytes_of(folder_ / "whole" / file)) << file;
    EXPECT_EQ(records(folder_ / name), records(folder_ / "whole"));
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
