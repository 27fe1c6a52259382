// Files, pipes and compressed texts, and what is no text at all.
#include "stuffed/io/byte_stream.h"

#include <cerrno>
#include <cstring>
#include <sys/resource.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include "tests/support/files.h"

namespace stuffed::io {
namespace {

using std::string_literals::operator""s;
using testing::expect_error;

// `printf 'hello ' | gzip`, then the same with 'world\n'.
const std::string kGzip =
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\x48\xcd\xc9\xc9\x57\x00\x00\xf6\xf9\x81\xed\x06"
    "\x00"
    "\x00\x00"
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x2b\xcf\x2f\xca\x49\xe1\x02\x00\xa8\x61\x38\xdd\x06"
    "\x00"
    "\x00\x00"s;
// Likewise by zstd.
const std::string kZstd =
    "\x28\xb5\x2f\xfd\x04\x58\x31\x00\x00\x68\x65\x6c\x6c\x6f\x20\xd2\x3b\xe1\xa9"
    "\x28\xb5\x2f\xfd\x04\x58\x31\x00\x00\x77\x6f\x72\x6c\x64\x0a\xaa\x6e\x56\x9f"s;

class ByteStreamTest : public ::testing::Test {
 protected:
  std::string read(std::string_view bytes) { return read_stream(folder_.write("a.txt", bytes)); }
  std::filesystem::path fifo() {
    const auto path = folder_ / "fifo";
    EXPECT_EQ(::mkfifo(path.c_str(), 0600), 0);
    return path;
  }
  testing::TempFolder folder_;
};

TEST_F(ByteStreamTest, AFileIsReadAsItIsInBlocks) {
  EXPECT_EQ(read(""), "");
  EXPECT_EQ(read("x"), "x");
  std::string long_text;
  for (int i = 0; i < 100000; ++i)
    long_text += std::to_string(i);
  EXPECT_EQ(read(long_text), long_text);
  ByteStream stream = ByteStream::open(folder_.write("b.txt", long_text));
  EXPECT_LE(stream.peek().size(), size_t{1} << 16);
  stream.take(3);
  EXPECT_EQ(stream.peek().substr(0, 4), long_text.substr(3, 4));
  EXPECT_FALSE(stream.is_pipe());
}

TEST_F(ByteStreamTest, GzipAndZstdAreRecognisedByContentWithAllTheirParts) {
  EXPECT_EQ(read(kGzip), "hello world\n");
  EXPECT_EQ(read(kZstd), "hello world\n");
  EXPECT_EQ(read(kGzip + std::string(512, '\0')), "hello world\n");  // as tar fills up blocks
  const std::string to_be_skipped = "\x50\x2a\x4d\x18\x04\x00\x00\x00....."s;
  EXPECT_EQ(read(to_be_skipped.substr(0, 12) + kZstd), "hello world\n");
}

TEST_F(ByteStreamTest, CompressedDataThatEndTooSoonOrAreDamagedAreRefused) {
  for (const std::string& whole : {kGzip, kZstd})
    for (const size_t size :
         {size_t{5}, size_t{12}, whole.size() / 2 - 1, whole.size() / 2 + 4, whole.size() - 1})
      expect_error(Error::Kind::Input, {"a.txt", "truncated"},
                   [&] { read(whole.substr(0, size)); });
  std::string damaged = kGzip;
  damaged[20] ^= 1;  // of the first member's CRC
  expect_error(Error::Kind::Input, {"a.txt", "damaged"}, [&] { read(damaged); });
  damaged = kZstd;
  damaged[16] ^= 1;
  expect_error(Error::Kind::Input, {"a.txt", "damaged"}, [&] { read(damaged); });
  expect_error(Error::Kind::Input, {"a.txt", "not gzip"}, [&] { read(kGzip + "more"); });
}

TEST_F(ByteStreamTest, WhatCannotBeOpenedSaysWhy) {
  const auto path = folder_.write("a.txt", "hello");
  rlimit whole = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &whole), 0);
  const rlimit none = {.rlim_cur = 3, .rlim_max = whole.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  errno = 0;  // what an earlier call left would be told instead
  expect_error(Error::Kind::Input, {path.string(), std::strerror(EMFILE)},
               [&] { read_stream(path); });
  ::setrlimit(RLIMIT_NOFILE, &whole);
}

TEST_F(ByteStreamTest, APipeIsReadToItsEndAndRemembered) {
  const auto path = fifo();
  StreamOptions options;
  options.record = std::make_shared<PipeRecord>();
  std::thread writer([&] {
    std::ofstream out(path, std::ios::binary);
    for (int i = 0; i < 3; ++i)
      out << "abc" << std::flush;
  });
  ByteStream stream = ByteStream::open(path, options);
  std::string all;
  for (std::string_view more; !(more = stream.peek()).empty(); stream.take(more.size()))
    all += more;
  writer.join();
  EXPECT_EQ(all, "abcabcabc");
  EXPECT_TRUE(stream.is_pipe());
  EXPECT_EQ(options.record->bytes(), 9);
  EXPECT_EQ(options.record->sha256(), sha256("abcabcabc"));
}

TEST_F(ByteStreamTest, OfAPipeTheDecompressedBytesTakenAreRemembered) {
  const auto path = fifo();
  StreamOptions options;
  options.record = std::make_shared<PipeRecord>();
  std::thread writer([&] { std::ofstream(path, std::ios::binary) << kGzip; });
  ByteStream stream = ByteStream::open(path, options);
  stream.peek();
  stream.take(4);
  writer.join();
  EXPECT_EQ(options.record->sha256(), sha256("hell"));
  EXPECT_FALSE(stream.is_limited());
}

TEST_F(ByteStreamTest, APipeThatGivesNothingIsGivenUpAndNamed) {
  const auto path = fifo();
  ByteStream stream = ByteStream::open(path, {.patience_seconds = 0.2});
  expect_error(Error::Kind::Input, {"fifo", "nothing arrived", "--wait"}, [&] { stream.peek(); });
}

TEST_F(ByteStreamTest, WhatIsNoFileAndNoPipeIsRefused) {
  expect_error(Error::Kind::Input, {"none"}, [&] { ByteStream::open(folder_ / "none"); });
  expect_error(Error::Kind::Input, {"folder"}, [&] { ByteStream::open(folder_.path()); });
  expect_error(Error::Kind::Input, {"/dev/zero", "device"}, [] { ByteStream::open("/dev/zero"); });
  expect_error(Error::Kind::Input, {"/dev/null", "device"}, [] { ByteStream::open("/dev/null"); });
}

}  // namespace
}  // namespace stuffed::io
