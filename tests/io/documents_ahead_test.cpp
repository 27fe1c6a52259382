// Reading ahead changes no document, no error and no place of an error, and ends when it is not
// wanted any more.
#include "stuffed/io/documents_ahead.h"

#include <atomic>
#include <chrono>
#include <fcntl.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/support/files.h"

namespace stuffed::io {
namespace {

using testing::expect_error;
using Clock = std::chrono::steady_clock;

class DocumentsAheadTest : public ::testing::Test {
 protected:
  static TokenSource open(const SourceOptions& options) {
    return TokenSource::open(options, load_tokenizer("bytes"), 256);
  }
  SourceOptions jsonl(const std::string& lines) {
    SourceOptions options;
    options.jsonl = folder_.write("lines.jsonl", lines);
    return options;
  }
  static std::string line(const std::string& text) { return "{\"text\": \"" + text + "\"}\n"; }
  static std::string lines(int count) {
    std::string all;
    for (int i = 0; i < count; ++i)
      all += line(std::string(static_cast<size_t>(2 + i % 50), static_cast<char>('a' + i % 26)));
    return all;
  }
  /// A pipe that `options` read, with an end to write to.
  int open_pipe(SourceOptions& options) {
    options.jsonl = folder_ / "pipe";
    EXPECT_EQ(::mkfifo(options.jsonl.c_str(), 0600), 0);
    return ::open(options.jsonl.c_str(), O_RDWR | O_CLOEXEC);
  }
  static void write_to(int pipe, std::string_view text) {
    ASSERT_EQ(::write(pipe, text.data(), text.size()), std::ssize(text));
  }

  testing::TempFolder folder_;
};

std::vector<std::vector<int32_t>> drain(auto& documents) {
  std::vector<std::vector<int32_t>> all;
  while (const std::optional<Document> document = documents.next())
    all.push_back(document->tokens);
  return all;
}

TEST_F(DocumentsAheadTest, DocumentsAreThoseOfTheSourceWhateverTheRoom) {
  const SourceOptions options = jsonl(lines(300));
  TokenSource plain = open(options);
  const auto expected = drain(plain);
  ASSERT_EQ(expected.size(), 300u);
  for (const size_t room : {size_t{0}, size_t{1000}, DocumentsAhead::kMostBytes}) {
    TokenSource source = open(options);
    DocumentsAhead ahead(source, room);
    EXPECT_EQ(drain(ahead), expected) << room;
    EXPECT_FALSE(ahead.next().has_value());
  }
}

TEST_F(DocumentsAheadTest, AnErrorComesWhereItsDocumentWould) {
  SourceOptions options = jsonl(lines(3) + "{\"text\": 1}\n" + lines(2));
  TokenSource source = open(options);
  DocumentsAhead ahead(source);
  for (int i = 0; i < 3; ++i)
    EXPECT_TRUE(ahead.next().has_value());
  for (int again = 0; again < 2; ++again)
    expect_error(Error::Kind::Input, {"line 4"}, [&] { ahead.next(); });
  options.skip_bad_lines = true;
  TokenSource forgiving = open(options);
  DocumentsAhead others(forgiving);
  EXPECT_EQ(drain(others).size(), 5u);
  EXPECT_EQ(forgiving.bad_lines().size(), 1u);
}

TEST_F(DocumentsAheadTest, DocumentsAreReadBeforeTheyAreAskedForButNoMoreThanThereIsRoomFor) {
  SourceOptions options;
  const int pipe = open_pipe(options);
  TokenSource source = open(options);
  const std::string document = line(std::string(20'000, 'a'));
  std::atomic<size_t> written = 0;
  std::thread writer([&] {
    for (int i = 0; i < 100; ++i, written += document.size())
      write_to(pipe, document);
    ::close(pipe);
  });
  {
    DocumentsAhead ahead(source, size_t{3} * 81'000);  // of 80,000 bytes of ids each
    const auto begin = Clock::now();
    while (written < 100'000 && Clock::now() - begin < std::chrono::seconds(30))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_GE(written, 100'000u);  // the pipe itself holds 65,536
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_LT(written, 400'000u);
    EXPECT_EQ(drain(ahead).size(), 100u);
  }
  writer.join();
}

TEST_F(DocumentsAheadTest, APipesSilenceCountsWhileSomeoneWaits) {
  SourceOptions options;
  options.patience_seconds = 0.2;
  const int pipe = open_pipe(options);
  TokenSource source = open(options);
  {
    DocumentsAhead ahead(source);
    std::this_thread::sleep_for(std::chrono::milliseconds(600));
    write_to(pipe, line("one") + line("two"));
    EXPECT_TRUE(ahead.next().has_value());
    std::this_thread::sleep_for(std::chrono::milliseconds(600));
    EXPECT_TRUE(ahead.next().has_value());
    expect_error(Error::Kind::Input, {"nothing arrived"}, [&] { ahead.next(); });
  }
  ::close(pipe);
}

TEST_F(DocumentsAheadTest, ItEndsWhileAPipeIsWaitedFor) {
  SourceOptions options;
  options.wait = true;  // without end
  const int pipe = open_pipe(options);
  TokenSource source = open(options);
  write_to(pipe, line("one"));
  const auto begin = Clock::now();
  {
    DocumentsAhead ahead(source);
    EXPECT_TRUE(ahead.next().has_value());
  }
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(20));
  ::close(pipe);
}

}  // namespace
}  // namespace stuffed::io
