#include "stuffed/io/journal.h"

#include <cmath>
#include <csignal>
#include <fstream>
#include <sstream>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "tests/support/files.h"

namespace stuffed::io {
namespace {

namespace fs = std::filesystem;

void write_all(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

class JournalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // In memory where there is such a place: hundreds of flushed lines wear out neither disk nor
    // patience.
    const fs::path shared = "/dev/shm";
    folder_ = (fs::exists(shared) ? shared : fs::temp_directory_path()) /
              fmt::format("stuffed_results_{}", getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    path_ = folder_ / "run.jsonl";
  }
  void TearDown() override { fs::remove_all(folder_); }

  static JournalHeader header(int64_t segment = 8192, const std::string& commit = "c0ffee") {
    return {.schema = "stuffed.test",
            .version = 2,
            .config = {{"segment_tokens", segment},
                       {"model", {{"sha256", "ab"}, {"family", "mamba2"}}}},
            .provenance = {{"commit", commit}}};
  }

  /// Runs to the end from wherever the file stands; returns how many records were computed.
  int run_all() const {
    Journal journal = Journal::open(path_, header());
    int computed = 0;
    for (int i = 0; i < 5; ++i) {
      const std::string key = fmt::format("document={}", i);
      if (journal.done(key))
        continue;
      journal.append(key, {{"nll_sum_nats", {i / 3.0, 1e-300, -0.0}}, {"name", "äß\n\"\\"}});
      ++computed;
    }
    journal.finish();
    return computed;
  }

  std::string error_of(const std::function<void()>& act, Error::Kind kind) const {
    try {
      act();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return {};
  }

  fs::path folder_, path_;
};

TEST_F(JournalTest, LinesAreHeaderRecordsEnd) {
  run_all();
  std::istringstream lines(testing::read_bytes(path_));
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(
      line,
      R"({"schema":"stuffed.test","version":2,"config":{"model":{"family":"mamba2","sha256":"ab"},)"
      R"("segment_tokens":8192},"provenance":{"commit":"c0ffee"}})");
  std::getline(lines, line);
  EXPECT_EQ(line, R"({"key":"document=0","name":"äß\n\"\\","nll_sum_nats":[0.0,1e-300,-0.0]})");
  for (int i = 0; i < 5; ++i)
    std::getline(lines, line);
  EXPECT_EQ(line, R"({"end":true,"records":5})");
}

TEST_F(JournalTest, CutAtEveryByteItEndsWithTheSameBytesAndRecomputesNoFinishedRecord) {
  run_all();
  const std::string whole = testing::read_bytes(path_);
  for (size_t cut = 0; cut < whole.size(); ++cut) {
    write_all(path_, whole.substr(0, cut));
    const int64_t whole_lines =
        std::count(whole.begin(), whole.begin() + static_cast<int64_t>(cut), '\n');
    EXPECT_EQ(run_all(), 5 - std::max<int64_t>(0, whole_lines - 1)) << "cut at byte " << cut;
    ASSERT_EQ(testing::read_bytes(path_), whole) << "cut at byte " << cut;
  }
}

TEST_F(JournalTest, FinishedFileIsLeftAsItIs) {
  run_all();
  const std::string whole = testing::read_bytes(path_);
  Journal journal = Journal::open(path_, header(8192, "another commit"));
  EXPECT_TRUE(journal.finished());
  journal.finish({{"seconds", 3}});
  EXPECT_EQ(testing::read_bytes(path_), whole);
}

TEST_F(JournalTest, RecordsCanBeReadBackNewOrOld) {
  {
    Journal journal = Journal::open(path_, header());
    journal.append("a", {{"x", 1.5}});
    EXPECT_EQ(journal.record("a").at("x"), 1.5);
  }
  Journal journal = Journal::open(path_, header());
  journal.append("b", {{"x", nullptr}});
  EXPECT_EQ(journal.record("a").at("x"), 1.5);
  EXPECT_TRUE(journal.record("b").at("x").is_null());
  EXPECT_EQ(journal.size(), 2);
  error_of([&] { journal.record("c"); }, Error::Kind::Internal);
}

TEST_F(JournalTest, ARecordThatLacksAFieldIsRefusedUnlessTheRunIsAnother) {
  run_all();
  const std::string whole = testing::read_bytes(path_);
  JournalHeader strict = header();
  strict.check_record = [](const json& record) { record.at("depth").get<int64_t>(); };
  const std::string message = error_of([&] { Journal::open(path_, strict); }, Error::Kind::Input);
  EXPECT_NE(message.find("'document=0'"), message.npos) << message;
  EXPECT_NE(message.find("'depth' not found"), message.npos) << message;
  strict.schema = "stuffed.passkey";
  error_of([&] { Journal::open(path_, strict); }, Error::Kind::Usage);
  EXPECT_EQ(testing::read_bytes(path_), whole);
}

TEST_F(JournalTest, AVersionIsASmallWholeNumber) {
  for (const std::string version : {"-1", "4294967298", "18446744073709551615", "2.0", "\"2\""}) {
    write_all(path_, R"({"schema":"stuffed.test","version":)" + version +
                         R"(,"config":{}})"
                         "\n");
    error_of([&] { Journal::open(path_, header()); }, Error::Kind::Input);
  }
}

TEST_F(JournalTest, ADifferentConfigIsRefusedByTheNameOfItsField) {
  run_all();
  const std::string whole = testing::read_bytes(path_);
  std::string message = error_of([&] { Journal::open(path_, header(512)); }, Error::Kind::Usage);
  EXPECT_NE(message.find("config.segment_tokens: 8192 there, 512 here"), message.npos) << message;
  JournalHeader other = header();
  other.config["model"]["sha256"] = "cd";
  message = error_of([&] { Journal::open(path_, other); }, Error::Kind::Usage);
  EXPECT_NE(message.find("config.model.sha256"), message.npos) << message;
  other = header();
  other.config["train_len"] = 4096;
  message = error_of([&] { Journal::open(path_, other); }, Error::Kind::Usage);
  EXPECT_NE(message.find("config.train_len: nothing there, 4096 here"), message.npos) << message;
  other = header();
  other.schema = "stuffed.passkey";
  error_of([&] { Journal::open(path_, other); }, Error::Kind::Usage);
  EXPECT_EQ(testing::read_bytes(path_), whole);
}

TEST_F(JournalTest, ARunThatRecordedNothingGivesWayToAnotherConfigButNotToAnotherSchema) {
  Journal::open(path_, header());
  const std::string whole = testing::read_bytes(path_);
  JournalHeader other = header(512);
  other.schema = "stuffed.passkey";
  error_of([&] { Journal::open(path_, other); }, Error::Kind::Usage);
  EXPECT_EQ(testing::read_bytes(path_), whole);
  { Journal::open(path_, header(512)).append("a", {{"x", 1}}); }
  EXPECT_EQ(read_journal(path_, [](const json&, LinePlace) {}).header.config, header(512).config);
  error_of([&] { Journal::open(path_, header()); }, Error::Kind::Usage);
}

TEST_F(JournalTest, ANewerVersionIsRefusedAndNeverDeleted) {
  run_all();
  const std::string whole = testing::read_bytes(path_);
  JournalHeader older = header();
  older.version = 1;
  const std::string message = error_of([&] { Journal::open(path_, older); }, Error::Kind::Input);
  EXPECT_NE(message.find("version 2"), message.npos) << message;
  EXPECT_EQ(testing::read_bytes(path_), whole);
}

TEST_F(JournalTest, AChangedCommitLeavesOneResumedLine) {
  Journal::open(path_, header()).append("a", {{"x", 1}});
  for (int i = 0; i < 2; ++i)
    Journal::open(path_, header(8192, "beef"));
  const std::string text = testing::read_bytes(path_);
  const std::string resumed = R"({"resumed":true,"provenance":{"commit":"beef"}})";
  EXPECT_NE(text.find(resumed), text.npos) << text;
  EXPECT_EQ(text.find(resumed), text.rfind(resumed));
}

TEST_F(JournalTest, OverwriteStartsAnewButSparesWhatIsNoJournal) {
  run_all();
  EXPECT_EQ(Journal::open(path_, header(512), true).size(), 0);
  write_all(path_, "the only copy of a thesis\n");
  error_of([&] { Journal::open(path_, header(), true); }, Error::Kind::Input);
  error_of([&] { Journal::open(path_, header()); }, Error::Kind::Input);
  write_all(path_, "no newline");
  error_of([&] { Journal::open(path_, header()); }, Error::Kind::Input);
  EXPECT_EQ(testing::read_bytes(path_), "no newline");
}

TEST_F(JournalTest, DamageInTheMiddleIsAnErrorThatNamesTheLine) {
  run_all();
  std::string text = testing::read_bytes(path_);
  text[text.find("document=2") - 8] = '}';
  write_all(path_, text);
  const std::string message = error_of([&] { Journal::open(path_, header()); }, Error::Kind::Input);
  EXPECT_NE(message.find("line 4"), message.npos) << message;
  EXPECT_EQ(testing::read_bytes(path_), text);
}

TEST_F(JournalTest, LineEndsThatWereChangedAreRefused) {
  run_all();
  std::string text;
  for (const char c : testing::read_bytes(path_))
    text += c == '\n' ? std::string("\r\n") : std::string(1, c);
  write_all(path_, text);
  const std::string message = error_of([&] { Journal::open(path_, header()); }, Error::Kind::Input);
  EXPECT_NE(message.find("line 1: ends in a carriage return"), message.npos) << message;
  EXPECT_EQ(testing::read_bytes(path_), text);
}

TEST_F(JournalTest, NonFiniteNumbersAreNullAndMustBeOwnedUpTo) {
  Journal journal = Journal::open(path_, header());
  const json bad = {{"nll", {1.0, std::nan("")}}};
  error_of([&] { journal.append("a", bad); }, Error::Kind::Internal);
  EXPECT_FALSE(journal.done("a"));
  json owned = bad;
  owned["finite"] = false;
  journal.append("a", owned);
  EXPECT_TRUE(journal.record("a").at("nll").at(1).is_null());
  error_of([&] { journal.append("a", owned); }, Error::Kind::Internal);
}

TEST_F(JournalTest, TwoProcessesDoNotWriteOneFile) {
  Journal first = Journal::open(path_, header());
  const std::string message =
      error_of([&] { Journal::open(path_, header()); }, Error::Kind::Output);
  EXPECT_NE(message.find("another process"), message.npos) << message;
}

TEST_F(JournalTest, AFullDiskLeavesWholeLinesOnly) {
  const auto limited_run = [this] {  // in a child, since the limit cannot be raised again
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 300, .rlim_max = 300};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      run_all();
    } catch (const Error& error) {
      return error.exit_code();
    }
    return 0;
  };
  const pid_t child = fork();
  if (child == 0)
    _exit(limited_run());
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  const std::string text = testing::read_bytes(path_);
  EXPECT_GT(text.size(), 150u);
  EXPECT_LE(text.size(), 300u);
  EXPECT_EQ(text.back(), '\n');
  run_all();
  EXPECT_NE(testing::read_bytes(path_).find("\"end\":true,\"records\":5"), std::string::npos);
}

TEST_F(JournalTest, PlacesThatCannotBeWrittenAreOutputErrors) {
  for (const char* place : {"/proc/run.jsonl", "/dev/full", "/proc/no/such/run.jsonl"})
    error_of([&] { Journal::open(place, header()); }, Error::Kind::Output);
  error_of([&] { Journal::open(folder_, header()); }, Error::Kind::Output);
}

}  // namespace
}  // namespace stuffed::io
