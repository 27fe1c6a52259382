// A run that dies in the middle of a document ends, when its command runs again, with the bytes of
// a run that nobody disturbed, and feeds again no more than one segment.
#include <functional>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "stuffed/eval/ppl_by_length.h"
#include "stuffed/eval/retention.h"
#include "stuffed/eval/state_stats.h"
#include "tests/support/files.h"
#include "tests/support/golden.h"

namespace stuffed::eval {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::golden_path;
using testing::read_bytes;
using testing::TempFolder;

struct Killed {};

constexpr double kAlways = 1e-9;  // seconds between saves: after every segment

/// Dies at the `after`th progress report; counts tokens.
struct Reports {
  int64_t after = -1;
  int64_t tokens = 0;

  void operator()(const Progress& progress) {
    tokens = progress.done_by_process;
    if (after-- == 0)
      throw Killed();
  }
};

/// Runs a task with its journal and sidecar in a folder, until it ends or dies.
using Runner = std::function<void(const fs::path& folder, io::Journal&, Checkpoint&, Reports&)>;

/// Returns the tokens this process fed.
int64_t run_once(const Runner& run, const fs::path& folder, int64_t dies_after) {
  at::NoGradGuard no_grad;
  io::Journal journal = io::Journal::open(
      folder / "out.jsonl",
      {.schema = "stuffed.test", .version = 1, .config = {{"x", 1}}, .provenance = {}});
  Checkpoint checkpoint(journal, kAlways);
  Reports reports{.after = dies_after};
  try {
    run(folder, journal, checkpoint, reports);
  } catch (const Killed&) {
  }
  return reports.tokens;
}

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      files[entry.path().filename()] = read_bytes(entry.path());
  return files;
}

/// Dies at every one of the first `deaths` reports in turn, and goes on each time.
void expect_same_bytes(const Runner& run, int64_t most_again) {
  TempFolder undisturbed;
  const int64_t all = run_once(run, undisturbed.path(), -1);
  const auto expected = files_of(undisturbed.path());
  for (const int64_t deaths : {1, 3}) {
    TempFolder folder;
    int64_t fed = 0;
    for (int64_t death = 0; death < deaths; ++death)
      fed += run_once(run, folder.path(), 2 + death);
    EXPECT_TRUE(fs::exists(folder / "out.jsonl.state"));
    fed += run_once(run, folder.path(), -1);
    EXPECT_LE(fed, all + deaths * most_again);
    EXPECT_GT(fed, all);  // or nothing died in the middle
    const auto found = files_of(folder.path());
    EXPECT_EQ(found.size(), expected.size());
    for (const auto& [name, bytes] : expected)
      EXPECT_TRUE(found.contains(name) && found.at(name) == bytes) << name;
  }
}

io::TokenSource tokens_of(const std::string& layout, int64_t length, int64_t documents) {
  static const TempFolder folder;
  const Tensor all = io::TensorFile::open(golden_path(layout) / "golden.safetensors")
                         .load("long_tokens")
                         .flatten()
                         .slice(0, 0, (length + 1) * documents);
  const fs::path path = folder / "tokens.safetensors";
  io::write_safetensors(path, {{"tokens", all.view({documents, length + 1})}});
  io::SourceOptions options;
  options.tokens = path;
  return io::TokenSource::open(options, nullptr, int64_t{1} << 30);
}

constexpr int64_t kSegment = 32;

class Resume : public ::testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<const RecurrentLM> model_ = load_model(golden_path(GetParam()));

  std::shared_ptr<const Recurrence> rule(std::vector<std::string> mitigations,
                                         Observer* observer = nullptr) const {
    return build_recurrence({.mitigations = std::move(mitigations), .observer = observer});
  }

  Runner ppl(std::vector<std::string> mitigations, int64_t batch) const {
    return [=, this](const fs::path& folder, io::Journal& journal, Checkpoint& checkpoint,
                     Reports& reports) {
      io::TokenSource source = tokens_of(GetParam(), 200, 3);
      run_ppl_by_length(*model_, *rule(mitigations), source, nullptr,
                        {.segment = kSegment,
                         .bucket = 24,
                         .batch = batch,
                         .train_len = {},
                         .per_token = folder / "nll.safetensors",
                         .run = io::json::object()},
                        journal, checkpoint, std::ref(reports));
    };
  }
};

TEST_P(Resume, PplByLength) {
  expect_same_bytes(ppl({}, 1), kSegment);
}

TEST_P(Resume, PplByLengthInBatchesWithAMemory) {
  if (GetParam() == "rwkv7-pth")  // no window: its transition is not diagonal
    return expect_same_bytes(ppl({"clip_insert:max=4"}, 2), 2 * kSegment);
  expect_same_bytes(ppl({"sliding_window:tokens=48"}, 2), 2 * kSegment);
}

TEST_P(Resume, StateStats) {
  const Runner run = [this](const fs::path& folder, io::Journal& journal, Checkpoint& checkpoint,
                            Reports& reports) {
    io::TokenSource source = tokens_of(GetParam(), 200, 2);
    run_state_stats(
        *model_, [&](Observer& observer) { return rule({}, &observer); }, source,
        {.segment = kSegment,
         .stride = 40,  // samples begin and end inside segments
         .train_len = 80,
         .histogram_at = {40, 160},
         .histogram_bins = 5,
         .arrays = folder / "arrays.safetensors",
         .run = io::json::object()},
        journal, checkpoint, std::ref(reports));
  };
  expect_same_bytes(run, kSegment);
}

TEST_P(Resume, Retention) {
  const Runner run = [this](const fs::path& folder, io::Journal& journal, Checkpoint& checkpoint,
                            Reports& reports) {
    DecayIntervals decays;
    const auto watched = rule({}, &decays);
    io::TokenSource source = tokens_of(GetParam(), 200, 2);
    run_retention(*model_, *watched, decays, source,
                  {.segment = kSegment,
                   .read_tokens = {96, 200},
                   .points = 6,
                   .half_life_starts = 3,
                   .arrays = folder / "arrays.safetensors",
                   .run = io::json::object()},
                  journal, checkpoint, std::ref(reports));
  };
  expect_same_bytes(run, 64 + 8);  // a walk feeds at least 64 tokens at a time
}

INSTANTIATE_TEST_SUITE_P(
    EveryFamily,
    Resume,
    ::testing::Values("mamba2-hf", "mamba1-hf", "hgrn2-fla", "rwkv5-pth", "rwkv6-hf", "rwkv7-pth"),
    [](const auto& info) {
      std::string name = info.param;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

class ResumeOne : public Resume {};
INSTANTIATE_TEST_SUITE_P(Mamba2, ResumeOne, ::testing::Values("mamba2-hf"));

TEST_P(ResumeOne, AStateOfAnotherRunIsRefused) {
  const Runner run = ppl({}, 1);
  TempFolder one, other;
  run_once(run, one.path(), 2);
  run_once(run, other.path(), 2);
  fs::copy_file(one / "out.jsonl.state", other / "out.jsonl.state",
                fs::copy_options::overwrite_existing);
  const std::string header = read_bytes(other / "out.jsonl");
  std::ofstream(other / "out.jsonl", std::ios::binary)
      << header.substr(0, header.find("\"provenance\"")) + "\"provenance\":{\"run\":2}}\n";
  expect_error(Error::Kind::Input, {"out.jsonl.state", "another run"},
               [&] { run_once(run, other.path(), -1); });
}

TEST_P(ResumeOne, ADamagedStateIsRefused) {
  const Runner run = ppl({}, 1);
  TempFolder folder;
  run_once(run, folder.path(), 2);
  const std::string bytes = read_bytes(folder / "out.jsonl.state");
  folder.write("out.jsonl.state", bytes.substr(0, bytes.size() - 3));
  expect_error(Error::Kind::Input, {"out.jsonl.state"}, [&] { run_once(run, folder.path(), -1); });
  folder.write("out.jsonl.state", "");
  expect_error(Error::Kind::Input, {"out.jsonl.state"}, [&] { run_once(run, folder.path(), -1); });
}

TEST_P(ResumeOne, AStateWhoseRecordIsThereIsPassedOver) {
  const Runner run = ppl({}, 1);
  TempFolder whole, folder;
  run_once(run, whole.path(), -1);
  run_once(run, folder.path(), 2);
  const std::string old = read_bytes(folder / "out.jsonl.state");
  run_once(run, folder.path(), 8);  // into the second document
  folder.write("out.jsonl.state", old);
  run_once(run, folder.path(), -1);
  EXPECT_EQ(files_of(folder.path()), files_of(whole.path()));
}

TEST_P(ResumeOne, ALostSidecarIsNoticed) {
  const Runner run = ppl({}, 1);
  TempFolder folder;
  run_once(run, folder.path(), 3);
  fs::remove_all(folder / "nll.safetensors.partial");
  expect_error(Error::Kind::Input, {"nll.safetensors.partial"},
               [&] { run_once(run, folder.path(), -1); });
}

}  // namespace
}  // namespace stuffed::eval
