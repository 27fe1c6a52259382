// Training by several ranks, which here are threads of one process, against training by one.
#include <fstream>
#include <thread>
#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "src/train/distributed/socket.h"
#include "stuffed/core/error.h"
#include "stuffed/io/shards.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/io/tokenizer.h"
#include "stuffed/train/trainer.h"

namespace stuffed::train {
namespace {

namespace fs = std::filesystem;

constexpr double kRendezvous = 60;  // seconds

TrainConfig small_config() {
  TrainConfig config;
  config.model = {{"hidden_size", 16},
                  {"num_hidden_layers", 2},
                  {"head_dim", 8},
                  {"state_size", 8},
                  {"vocab_size", 256}};
  config.data.mix = {{Source::Repeat, 1}};
  config.data.repeat_min = config.data.repeat_max = 8;
  config.data.window = 32;
  config.length = 16;
  config.segments = 2;
  config.batch = 8;
  config.accumulate = 2;
  config.schedule = {.peak = 1e-2, .last = 1e-3, .warmup = 2, .decay = 4, .steps = 14};
  config.log_every = 1;
  config.validate_every = config.checkpoint_every = 5;
  config.validation_rows = 2;
  return config;
}

/// Runs `body` as each rank.
void as_ranks(int ranks, const std::function<void(Ranks& all)>& body) {
  const int port = listen_anywhere().port;  // free again
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      const Launch launch = {.rank = rank,
                             .size = ranks,
                             .local_rank = rank,
                             .address = "127.0.0.1",
                             .port = port,
                             .attempt = "0"};
      Ranks all(launch, at::kCPU, kRendezvous);
      body(all);
      all.end();
    });
  for (std::thread& thread : threads)
    thread.join();
}

class Distributed : public ::testing::Test {
 protected:
  Distributed() : folder_(fs::temp_directory_path() / fmt::format("stuffed-ranks-{}", ::getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Distributed() override { fs::remove_all(folder_); }

  /// Trains into folder `name`; the run is stopped after `stop_at` steps, if that is one of them.
  void run(const TrainConfig& config, const std::string& name, int ranks, int64_t stop_at = -1) {
    as_ranks(ranks, [&](Ranks& all) {
      const auto stop = [&](const Progress& progress) {
        if (progress.step == stop_at)
          fail(Error::Kind::Interrupted, "stopped");
      };
      // The others have no folder: they need none.
      const fs::path folder = all.is_first() ? folder_ / name : fs::path("/nowhere/at/all");
      try {
        train(config, at::kCPU, folder, {{"commit", "test"}}, false, stop, all);
        EXPECT_LT(stop_at, 0);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), Error::Kind::Interrupted) << error.what();
        EXPECT_EQ(all.is_first(), !std::string_view(error.what()).empty());
      }
    });
  }

  std::map<std::string, double> losses(const std::string& name) const {
    std::ifstream in(folder_ / name / "train.jsonl");
    std::map<std::string, double> all;
    for (std::string line; std::getline(in, line);)
      if (const io::json record = io::json::parse(line); record.contains("loss_nats"))
        all[record.at("key")] = record.at("loss_nats");
      else if (record.contains("within_length_nats"))
        all[record.at("key")] = record.at("within_length_nats");
    return all;
  }

  void expect_equal(const std::string& a, const std::string& b) const {
    const auto first = losses(a), second = losses(b);
    ASSERT_EQ(first.size(), 14U + 3);  // steps and validations
    ASSERT_EQ(second.size(), first.size());
    for (const auto& [key, loss] : first)
      EXPECT_NEAR(second.at(key), loss, 1e-5) << key;
    const auto one = io::TensorFile::open(folder_ / a / "checkpoint.safetensors");
    const auto other = io::TensorFile::open(folder_ / b / "checkpoint.safetensors");
    EXPECT_EQ(one.entries().size(), other.entries().size());
    for (const auto& [tensor, entry] : one.entries())
      EXPECT_TRUE(at::allclose(other.load(tensor).to(at::kDouble), one.load(tensor).to(at::kDouble),
                               1e-3, 1e-4))
          << tensor;
  }

  std::string bytes(const std::string& name, const std::string& file) const {
    std::ifstream in(folder_ / name / file, std::ios::binary);
    EXPECT_TRUE(in.good()) << name << "/" << file;
    return {std::istreambuf_iterator<char>(in), {}};
  }

  void expect_same_bytes(const std::string& a, const std::string& b) const {
    for (const char* file : {"checkpoint.safetensors", "model.safetensors"})
      EXPECT_TRUE(bytes(a, file) == bytes(b, file)) << file;
    EXPECT_EQ(losses(a), losses(b));
  }

  fs::path folder_;
};

TEST_F(Distributed, EqualsOneProcessWhateverStatesAreCarried) {
  for (const InitialState state : {InitialState::Empty, InitialState::Passed, InitialState::Noise,
                                   InitialState::FittedNoise}) {
    TrainConfig config = small_config();
    config.initial_state = state;
    config.noise_deviation = state == InitialState::Noise ? 0.5 : 0;
    const std::string name = std::to_string(static_cast<int>(state));
    run(config, name + "/one", 1);
    run(config, name + "/two", 2);
    expect_equal(name + "/one", name + "/two");
    run(config, name + "/four", 4);
    expect_equal(name + "/one", name + "/four");
  }
}

TEST_F(Distributed, TwoRanksAreTwoPartsToTheBit) {
  TrainConfig config = small_config();
  run(config, "parts", 1);
  config.accumulate = 1;
  run(config, "ranks", 2);
  EXPECT_EQ(losses("parts"), losses("ranks"));
}

TEST_F(Distributed, EqualsOneProcessOnDocuments) {
  io::ShardWriter writer(folder_ / "shards", io::load_tokenizer("bytes"), {}, false);
  for (int i = 0; i < 40; ++i)
    writer.add(std::vector<int32_t>(static_cast<size_t>(5 + i % 23), 'a' + i % 7));
  writer.finish();
  TrainConfig config = small_config();
  config.data.shards = {{"shards", folder_ / "shards"}};
  config.data.mix = {{Source(Source::Shards, "shards"), 0.5}, {Source::Repeat, 0.5}};
  run(config, "one", 1);
  run(config, "two", 2);
  expect_equal("one", "two");
}

TEST_F(Distributed, ResumesToTheSameBytes) {
  TrainConfig config = small_config();
  config.initial_state = InitialState::FittedNoise;
  run(config, "whole", 2);
  run(config, "stopped", 2, 7);
  EXPECT_FALSE(fs::exists(folder_ / "stopped" / "model.safetensors"));
  run(config, "stopped", 2);
  expect_same_bytes("whole", "stopped");
}

TEST_F(Distributed, AnotherNumberOfRanksGoesOn) {
  TrainConfig config = small_config();
  config.initial_state = InitialState::Passed;
  run(config, "one", 1);
  run(config, "mixed", 4, 5);
  run(config, "mixed", 1, 9);
  run(config, "mixed", 2);
  expect_equal("one", "mixed");
}

TEST_F(Distributed, ABatchMustDivide) {
  TrainConfig config = small_config();
  config.batch = 6;  // parts of three sequences
  as_ranks(2, [&](Ranks& all) {
    try {
      train(
          config, at::kCPU, folder_ / "none", {}, false, [](const Progress&) {}, all);
      FAIL() << "rank " << all.rank();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::Usage);
      EXPECT_NE(std::string(error.what()).find("--batch: 6"), std::string::npos) << error.what();
    }
  });
  EXPECT_FALSE(fs::exists(folder_ / "none"));
}

}  // namespace
}  // namespace stuffed::train
