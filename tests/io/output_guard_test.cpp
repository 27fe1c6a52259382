#include "stuffed/io/output_guard.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/io/atomic_file.h"
#include "stuffed/io/tensor_file.h"
#include "tests/support/files.h"

namespace stuffed::io {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::read_bytes;

class OutputGuardTest : public ::testing::Test {
 protected:
  void expect_refused(const fs::path& output) {
    expect_error(Error::Kind::Usage, {"--per-token", "--text"},
                 [&] { guard_.writes("--per-token", output); });
  }

  testing::TempFolder folder_;
  OutputGuard guard_;
};

TEST_F(OutputGuardTest, AnInputIsKnownByWhateverName) {
  const fs::path text = folder_.write("x.txt", "hello");
  guard_.reads("--text", text);
  fs::create_symlink(text, folder_ / "link");
  fs::create_hard_link(text, folder_ / "hard");
  fs::create_directory_symlink(folder_.path(), folder_ / "up");
  for (const char* name : {"x.txt", "link", "hard", "up/x.txt", "up/up/x.txt"})
    expect_refused(folder_ / name);
  guard_.writes("--per-token", folder_ / "new.safetensors");
}

TEST_F(OutputGuardTest, AnInputThatIsALinkIsWhatItLeadsTo) {
  const fs::path text = folder_.write("x.txt", "hello");
  fs::create_symlink("x.txt", folder_ / "link");
  guard_.reads("--text", folder_ / "link");
  expect_refused(text);
}

TEST_F(OutputGuardTest, OutputsThatAreNotThereYetMustDiffer) {
  guard_.writes("-o", folder_ / "a.jsonl");
  fs::create_symlink("a.jsonl", folder_ / "dangling");
  for (const char* name : {"a.jsonl", "no/../a.jsonl", "dangling"})
    expect_error(Error::Kind::Usage, {"--arrays", "-o"},
                 [&] { guard_.writes("--arrays", folder_ / name); });
  guard_.writes("--arrays", folder_ / "b.safetensors");
}

TEST_F(OutputGuardTest, NamesThatNoFileCanHaveAreLeftToWhoeverOpensThem) {
  fs::create_symlink("loop", folder_ / "loop");
  guard_.writes("-o", folder_ / "loop");
  guard_.writes("--arrays", folder_ / std::string(300, 'a'));
  guard_.writes("--dump", folder_ / std::string(300, 'b'));
}

TEST_F(OutputGuardTest, AModelIsItsWeightsShardsConfigurationAndTokenizer) {
  for (const char* name : {"config.json", "tokenizer.json", "part-1.bin", "model.safetensors",
                           "rwkv_vocab_v20230424.txt", "w.pth"})
    folder_.write(name, "x");
  folder_.write("weights.index.json", R"({"weight_map": {"a": "part-1.bin"}})");
  folder_.write("results.jsonl", "x");
  guard_.reads("--model", folder_.path());
  for (const char* name : {"config.json", "tokenizer.json", "part-1.bin", "model.safetensors",
                           "rwkv_vocab_v20230424.txt", "w.pth", "weights.index.json"})
    expect_error(Error::Kind::Usage, {name, "--model"},
                 [&] { guard_.writes("-o", folder_ / name); });
  guard_.writes("-o", folder_ / "results.jsonl");  // results may lie among them
}

TEST_F(OutputGuardTest, AWeightFileBringsWhatLiesBesideIt) {
  for (const char* name : {"w.safetensors", "config.json"})
    folder_.write(name, "x");
  guard_.reads_model("--model", folder_ / "w.safetensors");
  for (const char* name : {"w.safetensors", "config.json"})
    expect_error(Error::Kind::Usage, {name}, [&] { guard_.writes("-o", folder_ / name); });
}

TEST_F(OutputGuardTest, WhatIsNoFileIsNothingToGuard) {
  guard_.reads("--text", "");
  guard_.reads("--text", folder_ / "absent");
  guard_.writes("-o", "");
  guard_.writes("-o", "-");
  guard_.writes("-o", "/dev/null");
}

TEST_F(OutputGuardTest, StandardOutputHasOtherNames) {
  for (const char* name : {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
    EXPECT_EQ(output_name(name), "-") << name;
  fs::create_symlink("/dev/stdout", folder_ / "out");
  EXPECT_EQ(output_name(folder_ / "out"), "-");
  EXPECT_EQ(output_name("-"), "-");
  EXPECT_EQ(output_name("a.jsonl"), "a.jsonl");
  EXPECT_EQ(output_name((folder_ / "1").string()), (folder_ / "1").string());
  EXPECT_EQ(output_name("/dev/null"), "/dev/null");
  expect_error(Error::Kind::Usage, {"/dev/stderr"}, [] { output_name("/dev/stderr"); });
}

TEST_F(OutputGuardTest, APlaceIsFreeEmptyOrOfTheSameKind) {
  const auto is_state = [](const TensorFile& file) { return file.metadata().contains("state"); };
  check_place(folder_ / "new", is_state);
  check_place(folder_.write("empty", ""), is_state);
  write_safetensors(folder_ / "state", {{"x", at::ones({1})}}, {{"state", "1"}});
  check_place(folder_ / "state", is_state);
  write_safetensors(folder_ / "model", {{"x", at::ones({1})}});
  for (const fs::path& path : {folder_ / "model", folder_.write("text", "hello")})
    expect_error(Error::Kind::Input, {path.string(), "left as it is"},
                 [&] { check_place(path, is_state); });
  expect_error(Error::Kind::Output, {}, [&] { check_place(folder_.path(), is_state); });
  expect_error(Error::Kind::Output, {}, [&] { check_place("/dev/null", is_state); });
}

TEST(AtomicFile, ReplacesNoDevicePipeOrFolder) {
  const testing::TempFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  for (const fs::path& path : {fs::path("/dev/null"), folder / "pipe", folder.path()})
    expect_error(Error::Kind::Output, {path.string()}, [&] { write_text(path, "x"); });
  EXPECT_TRUE(fs::is_fifo(folder / "pipe"));
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST(AtomicFile, FollowsALinkAndLeavesNothingElse) {
  const testing::TempFolder folder;
  fs::create_symlink("target", folder / "link");
  write_text(folder / "link", "one");
  write_text(folder / "link", "two");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_bytes(folder / "target"), "two");
  fs::create_symlink("loop", folder / "loop");
  expect_error(Error::Kind::Output, {"loop"}, [&] { write_text(folder / "loop", "x"); });
  { AtomicFile(folder / "never").write("given up"); }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 3);
}

TEST(AtomicFile, ATextOfOtherContentsIsReplacedOnlyWhenAskedTo) {
  const testing::TempFolder folder;
  const fs::path path = folder.write("a", "one");
  check_text_place(path, "one", false);
  check_text_place(path, "two", true);
  check_text_place(folder / "new", "two", false);
  expect_error(Error::Kind::Output, {path.string(), "--overwrite"},
               [&] { check_text_place(path, "two", false); });
}

}  // namespace
}  // namespace stuffed::io
