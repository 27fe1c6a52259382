#include "stuffed/train/data.h"

#include <fstream>
#include <map>
#include <set>
#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "stuffed/io/passkey_text.h"
#include "stuffed/io/shards.h"

namespace stuffed::train {
namespace {

namespace fs = std::filesystem;

std::string text_of(const Tensor& row) {
  std::string text;
  for (int64_t i = 0; i < row.numel(); ++i)
    text.push_back(static_cast<char>(row[i].item<int64_t>()));
  return text;
}

Tensor sequences(const TrainingData& data, int64_t step, int64_t count, int64_t length) {
  DataPosition position;
  return data.sequences(step, count, length, position).tokens;
}

constexpr int64_t kWindow = 64;  // of the data that windows() is asked of, unless they say

Tensor windows(const TrainingData& data, int64_t step, int64_t count, int64_t window = kWindow) {
  return sequences(data, step, count, window);
}

class Data : public ::testing::Test {
 protected:
  Data() : folder_(fs::temp_directory_path() / fmt::format("stuffed-data-{}", ::getpid())) {
    fs::create_directories(folder_);
  }
  ~Data() override { fs::remove_all(folder_); }

  /// A file of `size` bytes whose byte at i is first + i % 50.
  fs::path file(const std::string& name, int64_t size, int first) {
    std::ofstream out(folder_ / name, std::ios::binary);
    for (int64_t i = 0; i < size; ++i)
      out.put(static_cast<char>(first + i % 50));
    return folder_ / name;
  }

  fs::path folder_;
};

TEST_F(Data, DrawsAreAFunctionOfSeedAndStep) {
  const DataConfig config = {.text = {file("a", 5000, 0)},
                             .held_out = {},
                             .mix = {{Source::Text, 0.5}, {Source::Repeat, 0.5}},
                             .window = 64,
                             .seed = 3};
  const TrainingData data(config), again(config);
  EXPECT_TRUE(windows(data, 7, 8).equal(windows(again, 7, 8)));
  EXPECT_FALSE(windows(data, 7, 8).equal(windows(data, 8, 8)));
  DataConfig other = config;
  other.seed = 4;
  EXPECT_FALSE(windows(data, 7, 8).equal(windows(TrainingData(other), 7, 8)));
}

TEST_F(Data, TwinsSeeTheSameBytesInTheSameStep) {
  const TrainingData data({.text = {file("a", 5000, 0)}, .held_out = {}, .window = 64});
  const Tensor longer = sequences(data, 5, 4, 64), shorter = sequences(data, 5, 4, 16);
  ASSERT_EQ(longer.sizes(), at::IntArrayRef({4, 65}));
  ASSERT_EQ(shorter.sizes(), at::IntArrayRef({16, 17}));
  // Inputs and targets alike: only where a sequence starts from an empty state differs.
  EXPECT_TRUE(longer.slice(1, 0, 64).flatten().equal(shorter.slice(1, 0, 16).flatten()));
  EXPECT_TRUE(longer.slice(1, 1).flatten().equal(shorter.slice(1, 1).flatten()));
}

TEST_F(Data, EveryStepHasItsShareOfEachSource) {
  const TrainingData data({.text = {file("a", 5000, 200)},  // text is >= 200, repeats are printable
                           .held_out = {},
                           .mix = {{Source::Text, 0.7}, {Source::Repeat, 0.3}},
                           .window = 32});
  int64_t text = 0;
  for (int64_t step = 0; step < 100; ++step) {
    const Tensor first = windows(data, step, 5, 32).select(1, 0);
    const int64_t now = first.ge(128).sum().item<int64_t>();
    EXPECT_TRUE(now == 3 || now == 4) << now;
    text += now;
  }
  EXPECT_NEAR(static_cast<double>(text), 350, 20);
}

TEST_F(Data, WindowsStayInsideTheirFile) {
  const TrainingData data(
      {.text = {file("a", 100, 0), file("b", 100, 100)}, .held_out = {}, .window = 64});
  for (int64_t step = 0; step < 50; ++step)
    for (const Tensor& window : windows(data, step, 4).unbind(0)) {
      const Tensor from_b = window.ge(100);
      EXPECT_TRUE(from_b.all().item<bool>() || !from_b.any().item<bool>());
      EXPECT_TRUE(window.diff().remainder(50).eq(1).all().item<bool>());  // consecutive bytes
    }
}

TEST_F(Data, RepeatedStringsArePrintableAndPeriodic) {
  const TrainingData data({.text = {},
                           .held_out = {},
                           .mix = {{Source::Repeat, 1}},
                           .repeat_min = 8,
                           .repeat_max = 64,
                           .window = 256});
  std::set<int64_t> periods;
  for (const Tensor& window : windows(data, 0, 200, 256).unbind(0)) {
    EXPECT_TRUE((window.ge(0x20) & window.le(0x7e)).all().item<bool>());
    int64_t period = 1;
    while (!window.slice(0, period).equal(window.slice(0, 0, window.numel() - period)))
      ++period;
    periods.insert(period);
  }
  EXPECT_EQ(*periods.begin(), 8);
  EXPECT_EQ(*periods.rbegin(), 64);
}

TEST_F(Data, PasskeyPromptsHoldTheirAnswer) {
  const TrainingData data(
      {.text = {}, .held_out = {}, .mix = {{Source::Passkey, 1}}, .window = 4096});
  for (const Tensor& window : windows(data, 0, 20, 4096).unbind(0)) {
    const std::string text = text_of(window);
    ASSERT_TRUE(text.starts_with(io::passkey::kPrefix));
    const size_t needle = text.find("The passkey is ");
    ASSERT_NE(needle, std::string::npos);
    const std::string key = text.substr(needle + 15, 5);
    EXPECT_EQ(text.substr(needle, io::passkey::needle(key).size()), io::passkey::needle(key));
    const size_t question = text.find(io::passkey::kQuestion);
    if (question == std::string::npos || question + 50 > text.size())
      continue;  // cut off by the window
    EXPECT_EQ(text.substr(question + io::passkey::kQuestion.size(), 8), " " + key + ".\n");
  }
}

TEST_F(Data, RecallAsksForEveryKeyOnce) {
  const TrainingData data({.mix = {{Source::Recall, 1}}, .recall_pairs = 6, .window = 512});
  for (const Tensor& window : windows(data, 0, 20, 512).unbind(0)) {
    const std::string text = text_of(window);
    EXPECT_TRUE((window.ge(0x20) & window.le(0x7e)).all().item<bool>());
    for (size_t place = 0; place + 24 < text.size();) {  // a round of at most six pairs, twice
      std::map<char, char> value_of;
      while (!value_of.contains(text[place]) && value_of.size() < 7) {
        value_of[text[place]] = text[place + 1];
        place += 2;
      }
      ASSERT_GE(value_of.size(), 2);
      ASSERT_LE(value_of.size(), 6);
      for (size_t i = 0; i < value_of.size() && place + 1 < text.size(); ++i, place += 2)
        EXPECT_EQ(text[place + 1], value_of.at(text[place]));
    }
  }
}

TEST_F(Data, MqarAsksForEveryKeyOnceBehindFiller) {
  const TrainingData data({.mix = {{Source::Mqar, 1}}, .recall_pairs = 5, .window = 256});
  int64_t filler = 0, asked = 0;
  for (const Tensor& window : windows(data, 0, 20, 256).unbind(0)) {
    const int64_t* const ids = window.const_data_ptr<int64_t>();
    int64_t place = 0;
    const auto skip_filler = [&] {
      for (; place < 255 && ids[place] == 0; ++place)
        ++filler;
    };
    while (place < 255 - 40) {  // a sample has 20 tokens beside its filler at most
      std::map<int64_t, int64_t> value_of;
      for (skip_filler(); place < 255 && !value_of.contains(ids[place]); skip_filler()) {
        EXPECT_LT(ids[place], 128);
        EXPECT_GE(ids[place + 1], 128);
        value_of[ids[place]] = ids[place + 1];
        place += 2;
      }
      EXPECT_LE(value_of.size(), 5);
      for (size_t i = 0; i < value_of.size() && place < 255; ++i, place += 2, ++asked)
        EXPECT_EQ(ids[place + 1], value_of.at(ids[place]));
    }
  }
  EXPECT_GT(filler, 0);
  EXPECT_GT(asked, 100);
}

/// Shards of documents of these lengths, document i all of the byte i.
fs::path shards_of(const fs::path& folder, const std::vector<int64_t>& lengths, int64_t at_most) {
  io::ShardWriter writer(folder, io::load_tokenizer("bytes"), {.shard_tokens = at_most}, false);
  for (size_t i = 0; i < lengths.size(); ++i)
    writer.add(std::vector<int32_t>(static_cast<size_t>(lengths[i]), static_cast<int32_t>(i)));
  writer.finish();
  return folder;
}

TEST_F(Data, AnEpochHasEveryTokenOnceInARandomOrder) {
  const std::vector<int64_t> lengths = {40, 3, 70, 1, 55, 32, 9, 47};  // 257 together
  const Source source(Source::Shards, "s");
  const TrainingData data({.shards = {{"s", shards_of(folder_ / "set", lengths, 100)}},
                           .mix = {{source, 1}},
                           .window = 32});
  DataPosition position;
  std::vector<std::vector<int64_t>> orders;
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::map<int64_t, int64_t> seen;
    std::vector<int64_t> order;
    for (int64_t step = 0; step < 4; ++step) {  // 8 windows an epoch
      const Batch batch = data.sequences(4 * epoch + step, 2, 16, position);
      ASSERT_EQ(batch.tokens.sizes(), at::IntArrayRef({4, 17}));
      for (int64_t row = 0; row < 4; ++row) {
        std::vector<int64_t> changes;
        for (int64_t i = 0; i < 16; ++i) {
          const int64_t id = batch.tokens[row][i].item<int64_t>();
          ++seen[id];
          if (order.empty() || order.back() != id) {
            order.push_back(id);
            if (i > 0 || row % 2 == 1)  // not at the beginning of a window
              changes.push_back(i);
          }
        }
        EXPECT_EQ(batch.starts[static_cast<size_t>(row)], changes);
      }
    }
    for (size_t i = 0; i < lengths.size(); ++i)  // the last token of all is a target alone
      EXPECT_NEAR(static_cast<double>(seen[static_cast<int64_t>(i)]),
                  static_cast<double>(lengths[i]), 1);
    orders.push_back(order);
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_EQ(position.at("s"), 16);
}

TEST_F(Data, ShardsBesideATaskAreReadInTheirOrder) {
  const fs::path set = shards_of(folder_ / "set", {500, 700, 900}, 10000);
  const auto read = [&](std::map<Source, double> mix, int64_t steps) {
    const TrainingData data({.shards = {{"s", set}}, .mix = std::move(mix), .window = 64});
    DataPosition position;
    for (int64_t step = 0; step < steps; ++step)
      data.sequences(step, 4, 64, position);
    return position["s"];
  };
  const Source source(Source::Shards, "s");
  EXPECT_EQ(read({{source, 1}}, 5), 20);
  EXPECT_EQ(read({{source, 0.5}, {Source::Repeat, 0.5}}, 5), 10);
}

TEST_F(Data, ShardsSayWhatIsWrongWithThem) {
  const fs::path set = shards_of(folder_ / "set", {200, 100}, 150);
  const auto code = [&] {
    try {
      io::TokenShards::open(set);
    } catch (const Error& error) {
      return error.exit_code();
    }
    return 0;
  };
  EXPECT_EQ(code(), 0);
  const io::TokenShards shards = io::TokenShards::open(set);
  EXPECT_EQ(shards.documents(), 2);
  EXPECT_EQ(shards.tokens(), 300);
  EXPECT_TRUE(fs::exists(set / "stuffed_tokenizer.json"));
  fs::copy_file(set / "shard-00000.safetensors", set / "other");
  fs::rename(set / "shard-00001.safetensors", set / "gone");
  EXPECT_EQ(code(), 3);
  fs::rename(set / "other", set / "shard-00001.safetensors");
  EXPECT_EQ(code(), 3);
  fs::rename(set / "gone", set / "shard-00001.safetensors");
  EXPECT_EQ(code(), 0);
  const auto flip_last_token = [&] {
    std::fstream shard(set / "shard-00001.safetensors", std::ios::in | std::ios::out);
    shard.seekg(-1, std::ios::end);
    const int last = shard.get();
    shard.seekp(-1, std::ios::end);
    shard.put(static_cast<char>(last ^ 1));
  };
  flip_last_token();
  EXPECT_EQ(code(), 3);
  flip_last_token();
  EXPECT_EQ(code(), 0);
  fs::remove(set / "shards.json");
  EXPECT_EQ(code(), 3);
}

TEST_F(Data, ValidationIsFixedAndFromHeldOutText) {
  const TrainingData data({.text = {file("a", 5000, 0)}, .held_out = {file("b", 5000, 100)}});
  const Tensor rows = data.validation(Source::Text, 4, 100);
  EXPECT_TRUE(rows.ge(100).all().item<bool>());
  EXPECT_TRUE(rows.equal(data.validation(Source::Text, 4, 100)));
  EXPECT_FALSE(rows[0].equal(rows[1]));
}

TEST_F(Data, RefusesWhatCannotBeDrawn) {
  const auto kind_of = [](const DataConfig& config) {
    try {
      const TrainingData data(config);
    } catch (const Error& error) {
      return error.exit_code();
    }
    return 0;
  };
  EXPECT_EQ(kind_of({.text = {folder_ / "missing"}, .held_out = {}}), 3);
  EXPECT_EQ(kind_of({.text = {file("short", 512, 0)}, .held_out = {}}), 3);
  EXPECT_EQ(kind_of({.text = {}, .held_out = {}}), 2);
  EXPECT_EQ(kind_of({.text = {}, .held_out = {}, .mix = {{Source::Repeat, 0.5}}}), 2);
  EXPECT_THROW(parse_source("newlines"), Error);
}

}  // namespace
}  // namespace stuffed::train
