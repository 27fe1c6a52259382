#include "src/cli/options.h"

#include <gtest/gtest.h>

#include "stuffed/core/error.h"

namespace stuffed::cli {
namespace {

TEST(Sizes, KIs1024) {
  EXPECT_EQ(parse_size("8192", "--x"), 8192);
  EXPECT_EQ(parse_size("8K", "--x"), 8192);
  EXPECT_EQ(parse_size("128k", "--x"), 131072);
  EXPECT_EQ(parse_size("1M", "--x"), 1 << 20);
  EXPECT_EQ(parse_size("8G", "--x"), int64_t{1} << 33);
}

TEST(Sizes, ListsAndRangesIncludeTheirEnds) {
  EXPECT_EQ(parse_sizes("1K,2K", "--x"), (std::vector<int64_t>{1024, 2048}));
  EXPECT_EQ(parse_sizes("1K..4K:1K", "--x"), (std::vector<int64_t>{1024, 2048, 3072, 4096}));
  EXPECT_EQ(parse_sizes("1..6:2,100", "--x"), (std::vector<int64_t>{1, 3, 5, 100}));
}

TEST(Sizes, WhatIsNoSizeIsAUsageErrorThatNamesTheFlag) {
  for (const char* text : {"", "K", "8KB", "1.5K", "-1", "8 K", "0x10", "9999999999999999999",
                           "9000000000G", "1..2", "4..1:1", "1..4:0", "1,,2", "1..99999999999:1"}) {
    try {
      parse_sizes(text, "--length");
      ADD_FAILURE() << "accepted '" << text << "'";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::Usage);
      EXPECT_EQ(std::string(error.what()).find("--length: "), 0u) << error.what();
    }
  }
}

TEST(BatchSize, IsANumberOrAuto) {
  CLI::App app;
  int64_t batch = 3;
  add_batch_size(app, batch, "");
  app.parse(std::vector<std::string>{"auto", "--batch-size"});
  EXPECT_EQ(batch, 0);
  app.parse(std::vector<std::string>{"1K", "--batch-size"});
  EXPECT_EQ(batch, 1024);
  for (const char* wrong : {"0", "-1", "Auto", "2.5"})
    EXPECT_THROW(app.parse(std::vector<std::string>{wrong, "--batch-size"}), Error) << wrong;
}

TEST(ModelOptions, DefaultsAreTheDocumentedOnes) {
  CLI::App app;
  ModelOptions options;
  add_model_options(app, options);
  app.parse(std::vector<std::string>{"folder", "--model"});
  EXPECT_EQ(options.model, "folder");
  EXPECT_EQ(options.device, "auto");
  EXPECT_EQ(options.dtype, "f32");
  EXPECT_EQ(options.state_dtype, "f32");
  EXPECT_EQ(options.impl, "auto");
  EXPECT_EQ(options.segment, 8192);
  EXPECT_EQ(options.seed, 0u);
}

TEST(ModelOptions, MitigationsKeepTheirOrder) {
  CLI::App app;
  ModelOptions options;
  add_model_options(app, options);
  app.parse(std::vector<std::string>{"b:max=2", "--mitigation", "a:x=1,y=2", "--mitigation", "m",
                                     "--model"});
  EXPECT_EQ(options.mitigations, (std::vector<std::string>{"a:x=1,y=2", "b:max=2"}));
}

}  // namespace
}  // namespace stuffed::cli
